"""Completion in bash, where references hold `@` and `:`, which bash takes for the ends of words.

click's own script hands over bash's words; this one hands over the line, and gets back what follows the last end.
zsh and fish are click's.
"""

from __future__ import annotations

import os
import re
from typing import Any

from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

_SCRIPT = """\
%(complete_func)s() {
    local IFS=$'\\n'
    local -x CKPT_LINE="${COMP_LINE:0:COMP_POINT}" CKPT_ENDS="$COMP_WORDBREAKS"
    COMPREPLY=($(%(complete_var)s=bash_complete "$1"))
}
complete -o default -o nosort -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class LineComplete(BashComplete):
    """Completes the line as bash has it up to the cursor."""

    source_template = _SCRIPT

    def get_completion_args(self) -> tuple[list[str], str]:
        """The whole words in front, and the one under the cursor."""
        line = os.environ["CKPT_LINE"]
        words = split_arg_string(line)[1:]
        if line[-1:].isspace() or not words:
            return words, ""
        return words[:-1], words[-1]

    def format_completion(self, item: CompletionItem) -> str:
        """What bash puts in the place of its own last word; files it completes itself."""
        if item.type != "plain":
            return ""
        _, word = self.get_completion_args()
        ends = re.escape(os.environ.get("CKPT_ENDS", ""))
        kept = re.split(f"[{ends}]", word)[-1] if ends else word
        text: Any = item.value
        return str(text)[len(word) - len(kept) :]
