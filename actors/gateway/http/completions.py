"""`POST /v1/completions`."""

from __future__ import annotations

from actors.gateway.choice import Order, Sink
from actors.gateway.http.answer import Answer, StreamAnswer, WholeAnswer
from actors.gateway.http.completion_parts import CompletionStream, WholeCompletion
from actors.gateway.http.endpoint import Call, Endpoint, add_choices, stream_usage
from actors.gateway.http.errors import invalid
from actors.gateway.http.fields import CompletionRequest
from actors.gateway.http.output import Output
from actors.gateway.http.prompts import Prompt, completion_prompts
from actors.gateway.http.sampling import Terms, check, structured_output
from actors.gateway.http.whole import Collected

DEFAULT_MAX_TOKENS = 16


class Completions(Endpoint[CompletionRequest]):
    """A choice for each prompt and each of its `n`."""

    id_prefix = "cmpl"
    kind = CompletionRequest

    async def answer(self, call: Call[CompletionRequest]) -> tuple[Answer, list[Order]]:
        request, card = call.request, call.model.card
        check(request, card)
        prompts = await completion_prompts(request, call.model, len(call.body), call.block_size)
        if request.echo and any(not prompt.ids for prompt in prompts):
            raise invalid("echo", "echo needs token ids, but the engine of this model does text.")
        only_prompt = request.max_tokens == 0
        if request.max_tokens is None:
            request.max_tokens = DEFAULT_MAX_TOKENS
        elif only_prompt:
            request.max_tokens = 1  # an engine generates at least one token; it is not shown
        terms = Terms(
            structured_output(request),
            request.skip_special_tokens,
            request.spaces_between_special_tokens,
            add_special_tokens=request.add_special_tokens,
        )
        firsts = [i * request.choices for i in range(len(prompts))]
        head = call.head("text_completion")
        if request.stream:
            include, _ = stream_usage(request)
            answer = StreamAnswer(
                call.pipe, self.context.service, firsts, head, include_usage=include
            )

            def make(index: int, output: Output, prompt: Prompt) -> Sink:
                return CompletionStream(
                    answer, index, output, request, prompt, call.spelling, only_prompt=only_prompt
                )

            return answer, add_choices(call, answer, prompts, terms, make)
        choices: list[Collected] = []
        each = [prompt for prompt in prompts for _ in range(request.choices)]
        whole = WholeAnswer(
            call.pipe,
            self.context.service,
            firsts,
            WholeCompletion(request, head, call.spelling, each, choices, only_prompt),
        )

        def collect(_index: int, output: Output, _prompt: Prompt) -> Sink:
            choices.append(Collected(whole, output))
            return choices[-1]

        return whole, add_choices(call, whole, prompts, terms, collect)
