"""`python -m bench.peers dynamo ray nats`: install these peers, each by itself."""

from __future__ import annotations

import argparse
import shutil

from bench.peers import DISTRIBUTION, PROGRAMS, folder, install


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("name", nargs="+", choices=sorted(DISTRIBUTION))
    for name in parser.parse_args().name:
        install(name)
        print(f"{name}: {folder(name)}")
        program = PROGRAMS.get(name)
        if program and shutil.which(program) is None:
            print(f"{name} also needs the Debian package {program}: apt-get install {program}")


if __name__ == "__main__":
    main()
