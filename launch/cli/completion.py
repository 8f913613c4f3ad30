"""`callboard completion`: scripts that let a shell complete commands, flags, choices and actors."""

from __future__ import annotations

from launch.cli.console import OK, Parser, say

EPILOG = """
Put it where your shell finds it:
  callboard completion bash >> ~/.bash_completion
  callboard completion zsh > "${fpath[1]}/_callboard"
  callboard completion fish > ~/.config/fish/completions/callboard.fish

or try it in this shell:
  source <(callboard completion bash)
"""

# Each script asks `callboard complete WORDS…`, where the last word is being written. Every line of
# the answer is a candidate, a tab, and what it means. No answer: the shell completes file names.
SCRIPTS = {
    "bash": """\
_callboard() {
    local current=${COMP_WORDS[COMP_CWORD]} line
    [[ $current == "=" ]] && current=
    COMPREPLY=()
    while IFS=$'\\t' read -r line _; do
        [[ $line == "$current"* ]] && COMPREPLY+=("$line")
    done < <(callboard complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _callboard callboard""",
    "zsh": """\
#compdef callboard
_callboard() {
    local -a found
    local candidate meaning
    while IFS=$'\\t' read -r candidate meaning; do
        found+=("${candidate//:/\\\\:}:$meaning")
    done < <(callboard complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    if (( $#found )); then
        _describe callboard found
    else
        _files
    fi
}
if [[ $funcstack[1] == _callboard ]]; then
    _callboard "$@"
else
    compdef _callboard callboard
fi""",
    "fish": """\
function __callboard_complete
    set -l words (commandline -opc)[2..] (commandline -ct)
    set -l found (callboard complete $words 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c callboard -f -a '(__callboard_complete)'""",
}


def run(words: list[str]) -> int:
    parser = Parser("completion", "Print a completion script.", EPILOG)
    parser.add_argument("shell", metavar="SHELL", choices=SCRIPTS, help=", ".join(SCRIPTS))
    say(SCRIPTS[parser.parse_args(words).shell])
    return OK
