"""Long trainings in plain PyTorch: python scripts/golden/long_training.py --out test/fixtures/golden --model examples/models/tiny-ja-neox --data examples/data/diary.jsonl

Two curves that a trainer must follow to their ends: 500 steps over a tiny random model, and three epochs of the loop of rinna's
prefix_tuning_example.py over the demonstration model and real text.
"""
import argparse
import json
import math
import pathlib

import sentencepiece
import torch
from torch import nn

from common import load_model, make_deterministic, quiet, write_json, write_tensors
from training import PrefixEncoder, batch_loss, draw_samples, optimizer_for

BETAS, EPSILON, WEIGHT_DECAY, CLIP = (0.9, 0.99), 1e-8, 0.01, 1.0
BATCH_SIZE = 4


def train(model, encoder, batches, learning_rate, warmup, decay, accumulation=1, steps=None, after_epoch=None):
    """Passes over the batches in their order; linear warm-up and decay. Returns the loss of each step, and what `after_epoch` gives."""
    optimizer = optimizer_for(encoder, learning_rate, WEIGHT_DECAY, betas=BETAS, eps=EPSILON)
    factor = lambda k: k / max(1, warmup) if k < warmup else max(0.0, (decay - k) / max(1, decay - warmup))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses, epochs = [], []
    while len(losses) < steps:
        for first in range(0, len(batches), accumulation):
            total, count = 0.0, 0
            for batch in batches[first:first + accumulation]:
                loss, tokens = batch_loss(model, encoder(), batch)
                loss.backward()
                total, count = total + loss.item(), count + tokens
            for parameter in encoder.parameters():
                parameter.grad /= count
            nn.utils.clip_grad_norm_(encoder.parameters(), CLIP)
            losses.append(total / count)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if len(losses) == steps:
                break
        if after_epoch is not None:
            epochs.append(after_epoch())
    return losses, epochs


def in_batches(samples):
    return [samples[k:k + BATCH_SIZE] for k in range(0, len(samples), BATCH_SIZE)]


@torch.no_grad()
def validation_loss(model, prefix, batches):
    """Mean over all target tokens. (rinna's script takes the mean of the batches' perplexities.)"""
    parts = [batch_loss(model, prefix(), batch) for batch in batches]
    return sum(total.item() for total, _ in parts) / sum(tokens for _, tokens in parts)


def five_hundred_steps(folder):
    """training.long.json and .safetensors beside the model."""
    model = load_model(folder, torch.float32)
    samples = draw_samples(model.config, 36, 11)
    torch.manual_seed(7)
    encoder = PrefixEncoder(model.config)
    initial = {f'initial.{name}': value.clone() for name, value in encoder.state_dict().items()}
    about = {'learningRate': 5e-3, 'warmupSteps': 20, 'trainingSteps': 600, 'batchSize': BATCH_SIZE, 'accumulationSteps': 2, 'samples': samples}
    about['losses'], _ = train(model, encoder, in_batches(samples), 5e-3, 20, 600, accumulation=2, steps=500)
    write_json(folder / 'training.long.json', about)
    write_tensors(folder / 'training.long.safetensors', initial | {'last.prefix': encoder()})
    return f'{folder.name}: 500 steps, loss {about["losses"][0]:.4f} -> {about["losses"][-1]:.4f}'


def rinna_loop(out, path, data):
    """demonstration.json and .safetensors: texts of the demonstration with a smiley behind each sentence."""
    model = load_model(path, torch.float32)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path / 'spiece.model'))
    texts = [json.loads(line)['text'] for line in data.read_text().splitlines()[:64]]
    ids = [pieces.encode('\n'.join(line + ' \U0001f603' for line in text.split('\n')))[:48] for text in texts]
    samples = [{'prompt': [], 'completion': row} for row in ids]
    training, held_out = samples[:48], samples[48:]
    torch.manual_seed(3)
    encoder = PrefixEncoder(model.config, 10, 10, 10)
    initial = {f'initial.{name}': value.clone() for name, value in encoder.state_dict().items()}
    validation = in_batches(held_out)
    epochs, rate = 4, 2e-2
    losses, after = train(model, encoder, in_batches(training), rate, 0, 50000, steps=epochs * 12,
                          after_epoch=lambda: validation_loss(model, encoder, validation))
    about = {'learningRate': rate, 'batchSize': BATCH_SIZE, 'train': training, 'validation': held_out, 'losses': losses,
             'baseLoss': validation_loss(model, lambda: None, validation), 'validationLosses': after}
    write_json(out / 'demonstration.json', about)
    write_tensors(out / 'demonstration.safetensors', initial)
    return f'{path.name}: perplexity {math.exp(about["baseLoss"]):.3f} -> {math.exp(min(after)):.3f}'


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--model', type=pathlib.Path, required=True)
    parser.add_argument('--data', type=pathlib.Path, required=True)
    options = parser.parse_args()
    make_deterministic()
    quiet()
    print(five_hundred_steps(options.out / 'sequential'), flush=True)
    print(rinna_loop(options.out, options.model, options.data), flush=True)


if __name__ == '__main__':
    main()
