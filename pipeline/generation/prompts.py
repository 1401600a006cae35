"""The prompts: plain, short, for any language model that follows an instruction.

A template has the places {text}, {title} and {count}. The wording follows what InPars (Bonifacio et al. 2022),
Promptagator (Dai et al. 2023) and Ragas ask for: a query that the document answers, as a person would type it, not its
words again. Examples of one's own domain in the prompt are worth most (Promptagator shows eight).
"""

from string import Formatter

QUERIES = """\
Write {count} different search queries that the document below answers.
Each query must be understood without the document, as a person would type it who does not know the document.
Use the language of the document, but not its sentences.
Answer with a JSON array of {count} strings and nothing else.

Document:
{text}
"""
ONE_QUERY = """\
Write one search query that the document below answers.
It must be understood without the document, as a person would type it who does not know the document.
Use the language of the document, but not its sentences.
Answer with the query alone.

Document:
{text}
"""
JUDGMENT = """\
Does the document answer the query? Answer with one word: yes or no.

Query: {query}

Document:
{text}
"""
PROMPTS = {"json": QUERIES, "text": ONE_QUERY}  # by how an answer is read


def placeholders(template: str) -> set[str]:
    """Names of the places of a template; raises ValueError where it is none."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"is no template: {error}; write a brace of the text itself twice") from error
    if any(conversion or form for _, name, form, conversion in parsed if name is not None):
        raise ValueError("is no template: a place is a name in braces and nothing else")
    return {name for _, name, _, _ in parsed if name is not None}


def check_template(template: str, allowed: frozenset[str], required: frozenset[str]) -> str:
    """Return a template; raises ValueError for one with other places, or without those that it needs."""
    used = placeholders(template)
    if not required <= used <= allowed:
        names = ", ".join(f"{{{name}}}" for name in sorted(allowed))
        needed = ", ".join(f"{{{name}}}" for name in sorted(required))
        raise ValueError(f"a prompt is made of {names} and needs {needed}; write a brace of the text itself twice")
    return template
