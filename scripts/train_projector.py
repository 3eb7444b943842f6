"""Train the projector of the embedded student, and measure it on pictures that it never saw.

    python scripts/train_projector.py --work WORK --stage STAGE …

Stages: `cache` runs the frozen tower over every picture; `words` fits the object words (no language model);
`letters` fits the reader of strokes (no language model); `language` tunes everything through the frozen language
model; `measure` writes the held-out numbers. Each stage starts from the file of the one before it.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
from projector_cache import cache_all, load_rows
from projector_fit import teaching, train_language, train_letters, train_words
from projector_language import Likelihood
from projector_measure import measure, ship
from projector_start import Vocabulary, fresh_projector, load_parameters
from transformers import LlamaForCausalLM

from safer_steer.embedded.build import find_sources, load_tower
from safer_steer.embedded.gguf_weights import SmolLM2File


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=Path, help="folder of the tuxpaint stamps (stage cache)")
    parser.add_argument("--emoji", type=Path, help="unpacked npm package fluentui-emoji (stage cache)")
    parser.add_argument("--work", type=Path, required=True, help="folder for cached features and checkpoints")
    parser.add_argument("--stage", choices=("cache", "words", "letters", "language", "measure", "ship"), required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate of the stage letters")
    parser.add_argument("--start", type=Path, help="checkpoint to start from")
    parser.add_argument("--reader", type=Path, help="checkpoint to take the reader's parameters from")
    parser.add_argument("--save", type=Path, help="checkpoint to write")
    parser.add_argument("--report", type=Path, help="what the measure stage wrote, for the model card")
    parser.add_argument("--trials", type=int, default=3, help="candidate sets drawn per held-out image")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.stage == "cache" and (options.stamps is None or options.emoji is None):
        parser.error("the stage cache needs --stamps and --emoji")
    return options


def lexicon_words(tokenizer: Any) -> list[str]:
    """Words to draw: whole-word tokens of three to twelve letters, common ones first."""
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return [token[1:] for token, _ in ordered if re.fullmatch("Ġ[a-z]{3,12}", token)]


def vocabulary_of(tokenizer: Any, folder: Path) -> Vocabulary:
    """The words of the training captions, of the ImageNet classes, and plain nouns."""
    rows = [*load_rows(folder, "stamps-train-0.pt")[0], *load_rows(folder, "emoji-train-*.pt")[0]]
    class_words = json.loads(Path(__file__).with_name("imagenet_words.json").read_text())
    nouns = Path(__file__).with_name("picture_nouns.txt").read_text().split()
    return Vocabulary(tokenizer, [r["captions"][0] for r in rows], class_words, nouns)


def main() -> None:
    """Run one stage."""
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.stage == "ship":
        ship(torch.load(options.start, weights_only=True), json.loads(options.report.read_text()))
        return
    sources = find_sources()
    language = SmolLM2File(sources.language_model)
    tokenizer, tower, folder = (language.tokenizer(), load_tower(sources), options.work / "features")
    if options.stage == "cache":
        cache_all(options.stamps, options.emoji, lexicon_words(tokenizer), tower, folder)
        return
    vocabulary = vocabulary_of(tokenizer, folder)
    language_model = LlamaForCausalLM(language.config())
    language_model.load_state_dict(language.state(), strict=False)
    language_model.tie_weights()
    score = Likelihood(language_model, tokenizer)
    projector = fresh_projector(vocabulary, language_model, tokenizer)
    for path, part in ((options.start, ""), (options.reader, "reader.")):
        if path is not None:
            load_parameters(projector, path, part)

    def keep() -> None:
        torch.save(projector.state_dict(), options.save)

    if options.stage == "measure":
        report = measure(projector.eval(), tower, vocabulary, score, folder, options.trials)
        options.save.write_text(json.dumps(report, indent=2) + "\n")
        return
    if options.stage == "words":
        train_words(projector, vocabulary, folder)
    elif options.stage == "letters":
        train_letters(projector, folder, options.steps, options.rate, keep)
    else:
        train_language(projector, teaching(projector, tower, vocabulary, folder), score, options.steps, keep)
    keep()


if __name__ == "__main__":
    main()
