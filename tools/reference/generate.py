"""Write the golden data: `python tools/reference/generate.py [--output DIR] [--tokenizer DIR]`."""

import argparse
import os
import shutil
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers.utils import logging

from adapters import ADAPTERS, write_adapter
from beam_options import write_beam_options
from beams import write_beams
from bleu import write_bleu
from checkpoints import CHECKPOINTS, checkpoint_dir, write_checkpoint
from combinations import write_combination_cases, write_combinations
from common import DEFAULT_OUTPUT, DEFAULT_TOKENIZER
from constraints import write_constraints
from embedding_layers import write_embedding_layers
from generation_defaults import write_generation_defaults
from generations import write_generations
from processors import write_processor_cases, write_processors
from prompts import write_prompts
from stop_strings import write_stop_strings
from tokenizer_cases import write_tokenizer_cases
from training import write_training
from warpers import write_warpers


def main() -> None:
    """Regenerate every file under the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--tokenizer", type=Path, default=DEFAULT_TOKENIZER, help="folder with tokenizer.json")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")

    shutil.rmtree(arguments.output / "models", ignore_errors=True)
    for checkpoint in CHECKPOINTS:
        folder = checkpoint_dir(arguments.output, checkpoint.name)
        write_checkpoint(checkpoint, folder)
        for adapter in ADAPTERS[checkpoint.name]:
            write_adapter(checkpoint, adapter, folder)
        cases = write_generations(checkpoint, folder)
        ended = sum(case["finish_reason"] == "eos" for case in cases)
        print(f"{checkpoint.name}: {len(ADAPTERS[checkpoint.name])} adapters, {len(cases)} cases, {ended} end with EOS")
        print(f"{checkpoint.name}: {write_beams(checkpoint, folder)} beam searches")
        print(f"{checkpoint.name}: {write_prompts(checkpoint, folder)} prompts")
        print(f"{checkpoint.name}: {write_processor_cases(checkpoint, folder)} cases of processors")
        print(f"{checkpoint.name}: {write_combination_cases(checkpoint, folder)} cases of combined processors")
        print(f"{checkpoint.name}: {write_beam_options(checkpoint, folder)} beam searches with options")

    print(f"embedding layers: {write_embedding_layers(arguments.output)} adapters")
    print(f"warpers: {write_warpers(arguments.output / 'warpers.json')} cases")
    print(f"processors: {write_processors(arguments.output / 'processors.json')} cases")
    print(f"combinations: {write_combinations(arguments.output / 'combinations.json')} cases")
    print(f"constraints: {write_constraints(arguments.output)} cases")
    print(f"BLEU: {write_bleu(arguments.output / 'bleu.json')} corpora")
    print(f"tokenizer: {write_tokenizer_cases(arguments.tokenizer, arguments.output / 'tokenizer-cases.json')} cases")
    print(f"generation_config.json: {write_generation_defaults(arguments.output / 'generation-defaults.json')} cases")
    print(f"training: {write_training(arguments.output)} gradients and curves")
    print(f"stop strings: {write_stop_strings(arguments.tokenizer, arguments.output / 'stop-strings.json')} cases")


if __name__ == "__main__":
    main()
