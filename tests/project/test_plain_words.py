"""Habits of English that a program can see, in README and in the pages that a reader is led to.

The field's word stands beside each word of our own that is not to be used. A sentence that needs
one all the same is in `EXCEPTIONS`, with its reason.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Our own words, as patterns, and the field's.
TERMS = {
    r"illness(es)?|sick": "problem",
    r"cures?|cured": "fix, change, suggestion",
    r"lanes?": "trial run",
    r"rungs?": "round",
    r"strides?": "relative update size",
    r"under way": "in progress",
    r"a guess": "chance level",
    r"looked at": "inspected, checked (or name who does it)",
    r"earned its place": "met the criterion",
    r"the house": "the architecture",
    r"(keeps?|kept|has|have) (its|the same) bits": "bit-for-bit identical",
    r"by heart": "memorised",
    r"of (that|those|it|them) of|that of (that|those|a|the)": "name the thing again",
    r"go(es)? on as (it is|before)": "the baseline, continues unchanged",
    r"cannot be told|can't be told": "is not known",
    r"\d %? ?(or more|or less|at most|at least)": "the bound before the number: ≥ 39, up to 8",
    r"as well": "too, also (or cut)",
}
WORDS = {re.compile(rf"\b({pattern})\b", re.IGNORECASE): word for pattern, word in TERMS.items()}

# The longest sentence, in words. Twenty-five are the aim.
LONGEST = 40

# Text that may have such a word, by page, with the reason.
EXCEPTIONS: dict[str, dict[str, str]] = {
    "docs/glossary.md": {
        "under way, diverging": "the names that findings give to a trajectory",
        "a guess": "the word of the page, explained here",
    },
}

# Pages that no entry of the contents leads to: for contributors, and formulas with their proofs.
ELSEWHERE = (
    "dev/",
    *(f"explanation/{name}.md" for name in ("estimation", "drift", "convergence", "exploration")),
)
PAGES = [
    ROOT / "README.md",
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if not page.relative_to(ROOT / "docs").as_posix().startswith(ELSEWHERE)
    ),
]


def prose(text: str) -> str:
    """The text without code, quotes of what is printed, pictures, names in code and addresses."""
    text = re.sub(r"^```.*?^```", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(>|:::|    ).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"`[^`\n]*`", "CODE", text)


def sentences(text: str) -> list[str]:
    """The sentences: cells of tables, items of lists and paragraphs are cut apart first."""
    blocks = re.split(r"\n\s*\n|^\s*[-*] |^#+ |\||^\d+\. ", prose(text), flags=re.MULTILINE)
    found = (part for block in blocks for part in re.split(r"(?<=[.!?:])[*”\"]*\s+", block.strip()))
    return [" ".join(part.split()) for part in found if part.strip()]


def faults(page: Path) -> list[str]:
    name = page.relative_to(ROOT).as_posix()
    text = page.read_text(encoding="utf-8")
    allowed = EXCEPTIONS.get(name, {})
    found = []
    for sentence in sentences(text):
        if any(part in sentence for part in allowed):
            continue
        words = len(re.findall(r"\w[\w'’.,-]*", sentence))
        if words > LONGEST:
            found.append(f"{words} words: {sentence}")
        for pattern, better in WORDS.items():
            if hit := pattern.search(sentence):
                found.append(f"{hit[0]!r} ({better}): {sentence}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_has_the_words_of_the_field_and_no_long_sentence(page: Path) -> None:
    assert faults(page) == []


def test_every_exception_is_still_needed_and_has_a_reason() -> None:
    for name, allowed in EXCEPTIONS.items():
        text = " ".join(prose((ROOT / name).read_text(encoding="utf-8")).split())
        assert [part for part, reason in allowed.items() if part not in text or not reason] == []


def test_the_habits_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_plain_words.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("The cure is 4 times that of a guess.\n\n" + "word " * (LONGEST + 1) + ".\n")
    assert len(faults(page)) == 4
    page.write_text("`cure` is a name.\n\n```\na guess\n```\n\n" + "word " * LONGEST + ".\n")
    assert faults(page) == []
