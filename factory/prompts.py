"""Prompts with a place for an identity. Light to import: no model reads them here."""

from __future__ import annotations

import re

PERSON = "<person>"  # stands for the identity in a prompt


def _templates() -> tuple[str, ...]:
    """The ImageNet / textual-inversion family: 57 templates, as many as the release has distinct ones."""
    photo = [f"a photo of {what}" for what in ("a", "the", "my", "one", "a nice", "the nice")]
    photo += [f"a photo of {what}" for what in ("a clean", "the clean", "a dirty", "a cool", "the cool")]
    photo += [f"a photo of {what}" for what in ("a small", "the small", "the weird", "the large")]
    photo += ["the photo of a", "a dark photo of the", "a bright photo of the", "a rendering of a"]
    for view in ("a cropped photo of", "a close-up photo of", "a good photo of", "a rendition of"):
        photo += [f"{view} a", f"{view} the"]
    art = [
        f"{kind} of {what}"
        for kind in ("an illustration", "a depiction")
        for what in (
            *("a", "the", "my", "one", "a clean", "the clean", "a dirty", "a nice"),
            *("the nice", "a cool", "the cool", "a small", "the small", "the weird", "the large"),
        )
    ]
    return tuple(f"{text} {PERSON}" for text in photo + art)


TEMPLATES = _templates()


NETWORKS = "lora|lyco|locon|loha|lokr|hypernet"  # kinds, in any case
# What front ends write for programs of their own: networks, <lora:NAME:0.8>, and the break between a text's chunks.
# Other tags, such as <person:BREAK>, are passed over whole.
_ASIDE = re.compile(rf"<(?P<kind>(?i:{NETWORKS})):(?P<name>[^<>:]{{1,200}})[^<>]*>|<[^<>]*>|(?P<break>\bBREAK\b)")


def networks(prompt: str) -> dict[str, str]:
    """Names of the networks that a prompt asks for, <lora:NAME:1>, with their kinds; there are none here."""
    return {found["name"].strip(): found["kind"].lower() for found in _ASIDE.finditer(prompt) if found["kind"]}


def asked_in_vain(prompt: str) -> list[str]:
    """What a prompt asks for beside its words, each kind once, such as "lora" and "BREAK". Nothing is done about it."""
    kinds = (found["break"] or (found["kind"] or "").lower() for found in _ASIDE.finditer(prompt))
    return list(dict.fromkeys(filter(None, kinds)))


def words_of(prompt: str) -> str:
    """A prompt without what it asks for beside its words: a text encoder would read that as words, too."""
    return _ASIDE.sub(lambda found: "" if found["kind"] or found["break"] else found[0], prompt)


def with_person(prompt: str) -> str:
    """`prompt` with the identity in it: a prompt without `<person>` gets it in front, as in the paper."""
    prompt = words_of(prompt).strip()
    if PERSON in prompt:
        return prompt
    return f"{PERSON} {prompt}".strip()


# Prompts come from anybody with a key: each pattern and loop here costs no more than the prompt is long.
_MENTION = re.compile(r"<\s*person\s*(?::([^<>]*))?>", re.IGNORECASE)
# what joins people in a sentence and is left hanging where the next one is taken out
_JOINING = ",;&+"
_JOINT = re.compile(r"\b(?:together with|next to|beside|with|and)\Z")
_LONGEST_JOINT = len("together with") + 1  # and what stands before it


def _who(mention: re.Match[str]) -> str | None:
    """The name in a mention, None for the request's own identity; an empty name is nobody's."""
    name: str | None = mention[1]
    return None if name is None else name.strip()


def _without_joint(clause: str) -> str:
    """`clause` without what joined it to the person named next."""
    end = len(clause)
    while end:
        if clause[end - 1].isspace() or clause[end - 1] in _JOINING:
            end -= 1
        elif joint := _JOINT.search(clause, max(0, end - _LONGEST_JOINT), end):
            end = joint.start()
        else:
            break
    return clause[:end]


def people_in(prompt: str) -> list[str | None]:
    """Who a prompt names, each once, in their order: None is `<person>`, the request's own identity, a text is
    `<person:NAME>`. A prompt that names nobody shows the request's own."""
    named = [_who(match) for match in _MENTION.finditer(prompt)]
    return list(dict.fromkeys(named)) or [None]


def texts_by_person(prompt: str) -> dict[str | None, str]:
    """What a prompt says of each of its people, with `<person>` for them, in their order.

    What stands before the first name and after the last one is said of everybody, what follows another name of that
    one alone: "a photo of <person> in a red hat and <person:Bob> on the beach" says "a photo of <person> in a red hat
    on the beach" of the first, "a photo of <person> on the beach" of Bob.
    """
    prompt = words_of(prompt)
    mentions = list(_MENTION.finditer(prompt))
    if not mentions:
        return {None: with_person(prompt)}
    if len({_who(mention) for mention in mentions}) == 1:  # one person, however often: as it is written
        return {_who(mentions[0]): _MENTION.sub(PERSON, prompt).strip()}
    before, after = prompt[: mentions[0].start()], prompt[mentions[-1].end() :]
    said: dict[str | None, str] = {}
    for mention, following in zip(mentions, [*mentions[1:], None], strict=True):
        clause = "" if following is None else _without_joint(prompt[mention.end() : following.start()])
        already = said.get(who := _who(mention))
        said[who] = f"{PERSON}{clause}" if already is None else f"{already} and {PERSON}{clause}"
    return {who: f"{before}{clause}{after}".strip() for who, clause in said.items()}
