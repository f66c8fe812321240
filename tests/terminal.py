"""A real terminal without a person: a window of tmux, whose keys are pressed and whose screen is read.

Needs tmux (`apt-get install tmux`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from itertools import count
from types import TracebackType

MISSING = None if shutil.which("tmux") else "tmux is not installed (apt-get install tmux)"
"""Why tests with a terminal cannot run here; None when they can."""

PROMPT = "READY>"

_numbers = count()


class Terminal:
    """A shell in a window of its own, a context manager.

    Args:
        width: columns.
        height: lines.
        environment: what the shell sees beside this process's own.
    """

    def __init__(self, width: int = 80, height: int = 24, environment: dict[str, str] | None = None) -> None:
        self._tmux = ["tmux", "-u", "-L", f"moshi-{os.getpid()}-{next(_numbers)}", "-f", os.devnull]
        size = ["-x", str(width), "-y", str(height)]
        shell = ["env", f"PS1={PROMPT} ", "bash", "--norc", "--noprofile"]
        subprocess.run(
            [*self._tmux, "new-session", "-d", *size, *shell], check=True, env={**os.environ, **(environment or {})}
        )

    def __enter__(self) -> Terminal:
        self.wait_for(PROMPT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False)

    def type(self, *keys: str) -> None:
        """Press keys as tmux names them: text, "Enter", "C-c"."""
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        subprocess.run([*self._tmux, "resize-window", "-x", str(width), "-y", str(height)], check=True)

    def lines(self, colours: bool = False) -> list[str]:
        """What the window shows, top to bottom; with `colours` also the codes that make them."""
        return self._ask("capture-pane", "-p", *(["-e"] if colours else [])).split("\n")[:-1]

    def state(self) -> str:
        """Whether the cursor shows and whether a program has taken the whole screen: "1 0" is a shell's."""
        return self._ask("display-message", "-p", "#{cursor_flag} #{alternate_on}").strip()

    def child(self) -> int:
        """The process that the shell runs now."""
        shell = self._ask("display-message", "-p", "#{pane_pid}").strip()
        return int(subprocess.run(["pgrep", "-P", shell], check=True, capture_output=True, text=True).stdout)

    def wait_until(self, condition: Callable[[list[str]], bool], seconds: float = 120.0) -> list[str]:
        """The window's lines as soon as they fulfil the condition."""
        deadline = time.monotonic() + seconds
        while True:
            lines = self.lines()
            if condition(lines):
                return lines
            assert time.monotonic() < deadline, "it did not show in time:\n" + "\n".join(lines)
            time.sleep(0.05)

    def wait_for(self, text: str) -> list[str]:
        """The window's lines as soon as one holds `text`."""
        return self.wait_until(lambda lines: any(text in line for line in lines))

    def wait_for_prompt(self) -> list[str]:
        """The window's lines as soon as the shell waits for a command."""
        return self.wait_until(lambda lines: [line for line in lines if line][-1:] == [PROMPT])

    def run(self, command: str) -> list[str]:
        """Run a shell command to its end; the lines that it printed, prompts left out."""
        self.type("clear", "Enter")
        self.wait_until(lambda lines: lines[0] == PROMPT and not any(lines[1:]))
        self.type(command, "Enter")
        shown = self.wait_until(lambda lines: len(lines) > 1 and lines[0] != PROMPT and PROMPT in lines)
        return [line for line in shown[1:] if line and line != PROMPT]

    def _ask(self, *command: str) -> str:
        return subprocess.run([*self._tmux, *command], check=True, capture_output=True, text=True).stdout
