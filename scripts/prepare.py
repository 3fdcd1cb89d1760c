"""Prepare a corpus ahead of a run, which would otherwise do it on first use.

    python -m scripts.prepare stdlib
    python -m scripts.prepare openwebtext dir=/scratch/tokens
    python -m scripts.prepare local files='[a.jsonl.zst, b.txt]' val_share=0.05 tokenizer=bytes

Keys are those of configs/data/<recipe>.yaml. Stopped at any moment, the same command goes on where it was; two
at once do the work once. Expect about 2 million GPT-2 tokens a second from every CPU core.
"""

import sys
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import data
from conventions.config_keys import CONFIGS
from conventions.keywords import bind, in_section
from conventions.sentence import Arguments, nearest, one_sentence
from harness.words import read_value


def main() -> None:
    parser = Arguments.of("scripts.prepare", __doc__, whole=True)
    parser.add_argument("recipe", help=", ".join(data.RECIPES))
    parser.add_argument("keys", nargs="*", metavar="key=value", help="of configs/data/<recipe>.yaml")
    options = parser.parse_args()
    try:
        with one_sentence():
            keywords = bind(data.find(options.recipe), section(options.recipe, options.keys), "data")
            with in_section("data", keywords):
                dataset = data.load(options.recipe, **keywords)
    except KeyboardInterrupt:
        print("\nhalfstep: interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    print(dataset.folder)
    print(f"{dataset.train_tokens:,} training tokens in {len(dataset.train)} shards")
    print(f"{dataset.val_tokens:,} validation tokens in {len(dataset.val)} shards")
    print(f"tokenizer {dataset.tokenizer}, vocabulary {dataset.vocabulary}, fingerprint {dataset.fingerprint}")


def section(recipe: str, keys: list[str]) -> dict[str, Any]:
    """Read the recipe's YAML, with `keys`, each key=value, in place of its own.

    Raises ValueError for what is no key of it, or no key=value.
    """
    config = OmegaConf.load(CONFIGS / "data" / f"{recipe}.yaml")
    hints = get_type_hints(data.find(recipe))
    overrides = {}
    for key in keys:
        name, equals, text = key.partition("=")
        if not equals:
            raise ValueError(f"{key!r} is not of the form key=value")
        if name not in list(config):  # `in` alone is False for a key that is still ???
            raise ValueError(f"data.{name} is no key of {recipe}: {nearest(name, map(str, config))}")
        overrides[name] = read_value(text, hints.get(name))
    try:
        values = OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.create(overrides)), resolve=True)
    except OmegaConfBaseException as error:
        why = str(error).split("\n")[0]
        raise ValueError(f"{' '.join(keys)}: {why}; an environment variable is written $NAME") from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if value != "???"}


if __name__ == "__main__":
    main()
