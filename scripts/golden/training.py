"""Prefix tuning in plain PyTorch with the recipe of rinna's prefix-tuning-gpt: the curves that a trainer must follow."""
import math
import pathlib

import torch
from peft import PrefixTuningConfig, get_peft_model
from torch import nn

from models import NEW_TOKENS, greedy
from common import IGNORED, load_model, loss_sum, prefix_cache, reset_rotary, token_keys_and_values, write_json, write_tensors

CASES = [('sequential', torch.float32), ('parallel', torch.float32), ('sequential', torch.bfloat16), ('gpt2', torch.float32)]
PREFIX_LENGTH, INPUT_DIM, HIDDEN_DIM = 5, 6, 7
BATCH_SIZE, STEPS = 4, 10
UNUSED_TOKEN = 100  # as the end token of a generation that shall not end
RECIPE = {'learningRate': 0.01, 'beta1': 0.9, 'beta2': 0.99, 'epsilon': 1e-8, 'weightDecay': 0.01, 'warmupSteps': 3, 'totalSteps': 50,
          'gradientClip': 0.5}  # low enough to act on these small models
FIT = {'steps': 200, 'learningRate': 1e-4, 'weightDecay': 0.01}


class PrefixEncoder(nn.Module):
    """Embedding, linear, tanh, linear; the output is [P, L, 2, N, D]. The names are those of rinna's state dict."""

    def __init__(self, config, prefix_length=PREFIX_LENGTH, input_dim=INPUT_DIM, hidden_dim=HIDDEN_DIM):
        super().__init__()
        self.prefix_wte = nn.Embedding(prefix_length, input_dim)
        self.prefix_mlp = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.Tanh(), nn.Linear(hidden_dim, config.num_hidden_layers * 2 * config.hidden_size))
        heads = config.num_attention_heads
        self.shape = (prefix_length, config.num_hidden_layers, 2, heads, config.hidden_size // heads)

    def forward(self):
        return self.prefix_mlp(self.prefix_wte.weight).view(self.shape)


def draw_samples(config, count, seed):
    """Samples over a few tokens in a repeating order, so that there is something to learn. Every fourth has a prompt."""
    generator = torch.Generator().manual_seed(seed)

    def integer(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    samples = []
    for k in range(count):
        start, length = integer(0, 9), integer(1, 10)
        completion = [20 + 3 * ((start + step) % 9) for step in range(length)]
        if k % 7 == 2:
            completion[length // 2] = 0  # the pad id as an ordinary token
        prompt = [integer(4, config.vocab_size) for _ in range(integer(1, 5))] if k % 4 == 3 else []
        samples.append({'prompt': prompt, 'completion': completion})
    return samples


def rows_of(samples, config):
    """Inputs and targets: a sample with no prompt gives a row with and one without the start token."""
    inputs, targets = [], []
    for sample in samples:
        prompt, completion = sample['prompt'], sample['completion']
        labels = completion + [config.eos_token_id]
        if prompt:
            inputs.append(prompt + completion)
            targets.append([IGNORED] * (len(prompt) - 1) + labels)
        else:
            inputs += [[config.bos_token_id] + completion, completion]
            targets += [labels, labels[1:]]
    return inputs, targets


def batch_loss(model, prefix, samples):
    """Sum of the losses of a batch and its number of targets; rows are padded on the right."""
    inputs, targets = rows_of(samples, model.config)
    longest = max(map(len, inputs))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in inputs])
    labels = torch.tensor([row + [IGNORED] * (longest - len(row)) for row in targets])
    reset_rotary(model)
    return loss_sum(model(ids, past_key_values=prefix_cache(model, prefix, len(inputs))).logits, labels)


def optimizer_for(encoder, learning_rate, weight_decay, **options):
    parameters = dict(encoder.named_parameters())
    groups = [{'params': [p for name, p in parameters.items() if 'bias' not in name], 'weight_decay': weight_decay},
              {'params': [p for name, p in parameters.items() if 'bias' in name], 'weight_decay': 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, **options)


def schedule_for(optimizer):
    """Factor of the k-th step (from 0): k / warm-up, then linearly down to 0. So the first step has the rate 0."""
    warmup, total = RECIPE['warmupSteps'], RECIPE['totalSteps']
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: k / max(1, warmup) if k < warmup else max(0.0, (total - k) / max(1, total - warmup)))


def train(model, encoder, batches, accumulation):
    """`STEPS` steps over the batches in their order, again from the start when they end."""
    optimizer = optimizer_for(encoder, RECIPE['learningRate'], RECIPE['weightDecay'], betas=(RECIPE['beta1'], RECIPE['beta2']), eps=RECIPE['epsilon'])
    schedule = schedule_for(optimizer)
    curve = {'accumulation': accumulation, 'losses': [], 'tokens': [], 'learningRates': [], 'gradientNorms': []}
    for step in range(STEPS):
        total, count = 0.0, 0
        for micro in range(accumulation):
            loss, tokens = batch_loss(model, encoder(), batches[(step * accumulation + micro) % len(batches)])
            loss.backward()
            total, count = total + loss.item(), count + tokens
        for parameter in encoder.parameters():
            parameter.grad /= count  # the mean over the tokens of all micro-batches
        norm = nn.utils.clip_grad_norm_(encoder.parameters(), RECIPE['gradientClip'])
        curve['losses'].append(total / count)
        curve['tokens'].append(count)
        curve['learningRates'].append(optimizer.param_groups[0]['lr'])
        curve['gradientNorms'].append(norm.item())
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return curve


@torch.no_grad()
def validate(model, encoder, batches):
    parts = [batch_loss(model, encoder(), batch) for batch in batches]
    loss = sum(total.item() for total, _ in parts) / sum(tokens for _, tokens in parts)
    return {'loss': loss, 'perplexity': math.exp(loss), 'tokens': sum(tokens for _, tokens in parts)}


def fit(encoder, target):
    """Fit the encoder's output to `target`, as rinna's initialisation does."""
    optimizer = optimizer_for(encoder, FIT['learningRate'], FIT['weightDecay'])
    losses = []
    for _ in range(FIT['steps']):
        loss = nn.functional.mse_loss(encoder(), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return losses[0], losses[-1], nn.functional.mse_loss(encoder(), target).item()


@torch.no_grad()
def check_with_peft(folder, prefix):
    """PEFT, given the prefix as its prompt embeddings, must compute and generate the same."""
    model, ids = load_model(folder, torch.float32), torch.tensor([[5, 9, 33, 7, 21]])
    reset_rotary(model)
    ours = model(ids, past_key_values=prefix_cache(model, prefix)).logits
    peft = get_peft_model(load_model(folder, torch.float32), PrefixTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=PREFIX_LENGTH)).eval()
    peft.prompt_encoder.default.embedding.weight.copy_(prefix.reshape(PREFIX_LENGTH, -1))
    theirs = peft(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    difference = (ours - theirs).abs().max().item()
    assert difference < 1e-5, f'PEFT differs by {difference}'
    generated = peft.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
                              do_sample=False, eos_token_id=UNUSED_TOKEN)
    assert generated[0, ids.shape[1]:].tolist() == greedy(model, ids[0].tolist(), prefix)[0], 'PEFT generates other tokens'
    return difference


def write_case(folder: pathlib.Path, dtype, measure=False):
    """training.<dtype>.json and .safetensors in a model's folder."""
    model = load_model(folder, dtype)
    config = model.config
    samples, held_out = draw_samples(config, STEPS * BATCH_SIZE, 5), draw_samples(config, 10, 6)
    batches = [samples[k:k + BATCH_SIZE] for k in range(0, len(samples), BATCH_SIZE)]
    held_out_batches = [held_out[k:k + BATCH_SIZE] for k in range(0, len(held_out), BATCH_SIZE)]
    torch.manual_seed(42)
    initial = PrefixEncoder(config).state_dict()

    def new_encoder():
        encoder = PrefixEncoder(config)
        encoder.load_state_dict(initial)
        return encoder

    tensors = {f'initial.{name}': value for name, value in initial.items()}
    encoder = new_encoder()
    prefix = encoder()
    prefix.retain_grad()
    loss, count = batch_loss(model, prefix, batches[0])
    (loss / count).backward()
    tensors |= {'prefix': prefix, 'prefix_gradient': prefix.grad}
    tensors |= {f'gradient.{name}': p.grad for name, p in encoder.named_parameters()}
    inputs, targets = rows_of(batches[0], config)
    about = {
        'prefixLength': PREFIX_LENGTH, 'inputDim': INPUT_DIM, 'hiddenDim': HIDDEN_DIM, 'batchSize': BATCH_SIZE, 'recipe': RECIPE,
        'samples': samples, 'validation': held_out,
        'firstBatch': {'inputs': inputs, 'targets': targets, 'loss': (loss / count).item(), 'tokens': count},
    }
    for name, accumulation in (('curve', 1), ('accumulated', 2)):
        encoder = new_encoder()
        before = validate(model, encoder, held_out_batches)
        about[name] = train(model, encoder, batches, accumulation)
        about[name] |= {'validationBefore': before, 'validationAfter': validate(model, encoder, held_out_batches)}
        if accumulation == 1:
            tensors |= {f'{name}.{key}': value for key, value in encoder.state_dict().items()}
        tensors[f'{name}.prefix'] = encoder()
    encoder = new_encoder()
    tensors['fit.target'] = token_keys_and_values(model, PREFIX_LENGTH)
    first, last, final = fit(encoder, tensors['fit.target'])
    tensors['fit.prefix'] = encoder()
    about['fit'] = FIT | {'firstLoss': first, 'lastLoss': last, 'finalLoss': final}

    name = str(dtype).removeprefix('torch.')
    write_tensors(folder / f'training.{name}.safetensors', tensors)
    write_json(folder / f'training.{name}.json', about)
    text = f'{folder.name} training {name}: loss {about["curve"]["losses"][0]:.4f} -> {about["curve"]["losses"][-1]:.4f}, fit {first:.4f} -> {final:.4f}'
    if dtype == torch.float32:
        text += f', PEFT within {check_with_peft(folder, prefix.detach()):.1e}'
    if measure:
        text += '\n  ' + measure_fused(folder, dtype, tensors, about, batches, new_encoder)
    return text


def measure_fused(folder, dtype, tensors, about, batches, new_encoder):
    """How far the same training lies off with fused attention."""
    model, encoder = load_model(folder, dtype, 'sdpa'), new_encoder()
    prefix = encoder()
    prefix.retain_grad()
    loss, count = batch_loss(model, prefix, batches[0])
    (loss / count).backward()
    gradients = {'prefix_gradient': prefix.grad} | {f'gradient.{name}': p.grad for name, p in encoder.named_parameters()}
    relative = max(((g - tensors[name]).norm() / tensors[name].norm()).item() for name, g in gradients.items())
    absolute = max((g - tensors[name]).abs().max().item() for name, g in gradients.items())
    encoder = new_encoder()
    curve = train(model, encoder, batches, 1)

    def largest(key):
        return max(abs(a - b) for a, b in zip(curve[key], about['curve'][key]))

    final = (encoder() - tensors['curve.prefix']).abs().max().item()
    return (f'fused attention: gradient relative {relative:.1e} absolute {absolute:.1e}, losses {largest("losses"):.1e}, '
            f'norms {largest("gradientNorms"):.1e}, prefix after {final:.1e}')
