"""What transformers generates, and how it scores: python scripts/golden/generation.py --models test/fixtures/golden --out test/fixtures/generation

processors.json   distributions after every logits processor and combinations of them, on logits that the tests draw by the same numbers
generate.json     tokens of generate(): greedy and beam search with processors, with a prefix and without
score.json        log-probabilities of continuations, a sliding-window perplexity, hidden states

A result is only written when rounding cannot decide it: it must be the same in float32 and in float64.
"""
import argparse
import hashlib
import json
import pathlib

import torch
from peft import PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import DynamicCache, GenerationConfig, GPTNeoXForCausalLM
from transformers.generation.logits_process import (LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor,
                                                    SequenceBiasLogitsProcessor)

from common import load_model, make_deterministic, quiet, write_json

VOCABULARY = 2048  # of examples/models/tiny-ja-neox


class Random:
    """mulberry32, as test/helpers.ts has it."""

    def __init__(self, seed):
        self.state = seed & 0xFFFFFFFF

    def next(self):
        self.state = (self.state + 0x6D2B79F5) & 0xFFFFFFFF
        t = self.state
        t = ((t ^ (t >> 15)) * (t | 1)) & 0xFFFFFFFF
        t ^= (t + (((t ^ (t >> 7)) * (t | 61)) & 0xFFFFFFFF)) & 0xFFFFFFFF
        return (t ^ (t >> 14)) / 2**32

    def integer(self, low, high):
        return low + int(self.next() * (high - low + 1))

    def pick(self, values):
        return values[self.integer(0, len(values) - 1)]


def draw_logits(random, deviation):
    """Nearly normal: the sum of four uniform numbers. [V] float32"""
    rows = [deviation * 3**0.5 * (random.next() + random.next() + random.next() + random.next() - 2) for _ in range(VOCABULARY)]
    return torch.tensor(rows, dtype=torch.float64).float()


# ---- processors ----

class OpenAIPenalties(LogitsProcessor):
    """vLLM's form of OpenAI's presence and frequency penalties (vllm/model_executor/layers/utils.py, apply_penalties)."""

    def __init__(self, prompt_length, presence, frequency):
        self.prompt_length, self.presence, self.frequency = prompt_length, presence, frequency

    def __call__(self, input_ids, scores):
        counts = torch.zeros_like(scores)
        generated = input_ids[:, self.prompt_length:]
        counts.scatter_add_(1, generated, torch.ones_like(generated, dtype=scores.dtype))
        return scores - self.frequency * counts - self.presence * (counts > 0)


class RinnaTopP(LogitsProcessor):
    """The rule of rinna's prefix-tuning-gpt, src/util.py: what crosses p is removed, but for the first token."""

    def __init__(self, top_p):
        self.top_p = top_p

    def __call__(self, input_ids, scores):
        ordered, indices = torch.sort(scores, descending=True)
        remove = torch.cumsum(torch.softmax(ordered, dim=-1), dim=-1) > self.top_p
        remove[..., 0] = False
        return scores.masked_fill(remove.scatter(1, indices, remove), -float('inf'))


def generation_config(options):
    """transformers' configuration for options by the names of this package."""
    names = {'temperature': 'temperature', 'topK': 'top_k', 'minP': 'min_p', 'typicalP': 'typical_p', 'noRepeatNgramSize': 'no_repeat_ngram_size',
             'minNewTokens': 'min_new_tokens', 'maxNewTokens': 'max_new_tokens', 'numBeams': 'num_beams', 'lengthPenalty': 'length_penalty',
             'earlyStopping': 'early_stopping', 'numReturnSequences': 'num_return_sequences', 'badWords': 'bad_words_ids',
             'eosTokenIds': 'eos_token_id', 'repetitionPenalty': 'repetition_penalty'}
    values = {'top_k': 0, 'pad_token_id': 0} | {names[key]: value for key, value in options.items() if key in names}
    for key in ('temperature', 'repetition_penalty'):
        if key in values:
            values[key] = float(values[key])
    if 'topP' in options and options.get('topPRule') != 'rinna':
        values['top_p'] = options['topP']
    if 'logitBias' in options:
        values['sequence_bias'] = [[[int(key)], float(value)] for key, value in options['logitBias'].items()]
    return GenerationConfig(**values)


def processors_of(model, options, prompt_length):
    config = generation_config(options)
    config.do_sample = True
    config._eos_token_tensor = torch.tensor(options['eosTokenIds']) if 'eosTokenIds' in options else None
    chain = model._get_logits_processor(config, input_ids_seq_length=prompt_length, device='cpu')
    if 'presencePenalty' in options or 'frequencyPenalty' in options:
        early = (SequenceBiasLogitsProcessor, RepetitionPenaltyLogitsProcessor)
        at = sum(type(item) in early for item in chain)
        chain.insert(at, OpenAIPenalties(prompt_length, options.get('presencePenalty', 0), options.get('frequencyPenalty', 0)))
    if options.get('topPRule') == 'rinna':
        late = sum(type(item).__name__ in ('MinPLogitsWarper', 'TypicalLogitsWarper') for item in chain)
        chain.insert(len(chain) - late, RinnaTopP(options['topP']))
    return LogitsProcessorList(chain)


def distribution(model, options, prompt, generated, logits):
    """[V] float64"""
    ids = torch.tensor([prompt + generated])
    return torch.softmax(processors_of(model, options, len(prompt))(ids, logits.double().unsqueeze(0)), dim=-1)[0]


def kept_of(probabilities):
    """Tokens that can be drawn; far below the most likely one, float32 has none."""
    return probabilities > 1e-37 * probabilities.max()


def is_robust(model, options, prompt, generated, logits, kept):
    """False where a threshold is so near a token that rounding may decide."""
    for key in ('topP', 'minP', 'typicalP'):
        for factor in (1 - 1e-5, 1 + 1e-5):
            if key in options and options[key] * factor < 1:
                other = distribution(model, options | {key: options[key] * factor}, prompt, generated, logits)
                if not torch.equal(kept_of(other), kept):
                    return False
    return True


SINGLE = [('temperature', (0.3, 0.7, 1.5, 10)), ('topK', (1, 5, 50, 500, 5000)), ('topP', (0.1, 0.5, 0.9, 0.95, 0.999)), ('minP', (0.01, 0.05, 0.3)),
          ('typicalP', (0.1, 0.5, 0.9, 0.99)), ('repetitionPenalty', (0.7, 1.3, 2)), ('presencePenalty', (0.6, -1)), ('frequencyPenalty', (0.4, -0.5)),
          ('noRepeatNgramSize', (1, 2, 3))]


def option_sets(random, history):
    """One option at a time, then mixtures. Words and biases are such that they matter after this history."""
    words = [[history[-1], 100], history[-2:] + [101], [102], [history[0], history[0], 103], [7]]
    bias = {str(5): 2.5, str(history[0]): -3.0, str(200): '-inf', str(1000): 6.0}
    sets = [{key: value} for key, values in SINGLE for value in values]
    sets += [{'topP': p, 'topPRule': 'rinna'} for p in (0.2, 0.9)] + [{'badWords': words, 'eosTokenIds': [7]}, {'logitBias': bias}]
    sets += [{'minNewTokens': count, 'eosTokenIds': [3, 1000]} for count in (3, 40)]
    for _ in range(60):
        mixed = {key: random.pick(values) for key, values in SINGLE if random.next() < 0.4}
        if 'topP' in mixed and random.next() < 0.3:
            mixed['topPRule'] = 'rinna'
        if random.next() < 0.3:
            mixed['logitBias'] = bias
        if random.next() < 0.3:
            mixed |= {'badWords': words, 'eosTokenIds': [7]}
        sets.append(mixed)
    return sets


def processor_cases(model):
    random = Random(1)
    few = [random.integer(0, VOCABULARY - 1) for _ in range(6)]
    prompt = [random.pick(few) for _ in range(9)]
    generated = [random.pick(few) for _ in range(12)]
    cases = []
    for options in option_sets(random, prompt + generated):
        while True:
            seed, deviation = random.integer(1, 10**6), random.pick([1, 3, 6])
            logits = draw_logits(Random(seed), deviation)
            result = distribution(model, options, prompt, generated, logits)
            if is_robust(model, options, prompt, generated, logits, kept_of(result)):
                break
        kept = kept_of(result).nonzero().flatten().tolist()
        best = result.topk(min(5, len(kept)))
        cases.append({'options': options, 'seed': seed, 'deviation': deviation, 'kept': len(kept),
                      'digest': hashlib.sha256(','.join(map(str, kept)).encode()).hexdigest()[:16],
                      'best': [[token, round(value, 9)] for token, value in zip(best.indices.tolist(), best.values.tolist())]})
    return {'vocabulary': VOCABULARY, 'prompt': prompt, 'generated': generated, 'cases': cases}


# ---- generate() ----

class PrefixedModel(GPTNeoXForCausalLM):
    """Puts a prefix [P, L, 2, N, D] into an empty cache; positions follow from the cache. Rows have no padding."""
    prefix = None

    def forward(self, input_ids=None, past_key_values=None, attention_mask=None, position_ids=None, **more):
        if self.prefix is not None and past_key_values.get_seq_length() == 0:
            values = self.prefix.to(self.dtype).permute(1, 2, 3, 0, 4)
            for layer in range(values.shape[0]):
                key, value = (values[layer, part].unsqueeze(0).expand(input_ids.shape[0], -1, -1, -1).contiguous() for part in range(2))
                past_key_values.update(key, value, layer)
        return super().forward(input_ids=input_ids, past_key_values=past_key_values, **more)


def prefixed_model(folder, dtype):
    model = load_model(folder, dtype)
    model.__class__ = PrefixedModel  # not by from_pretrained, which finds no weights for a class that it does not know
    return model


@torch.no_grad()
def generated_by(model, prefix, prompt, options):
    """Sequences of new tokens without the end token, and their scores where it is a beam search."""
    model.prefix = prefix
    ids = torch.tensor([prompt])
    config = generation_config(options)
    config.do_sample = False
    chain = LogitsProcessorList()
    output = model.generate(ids, generation_config=config, logits_processor=chain, past_key_values=DynamicCache(config=model.config),
                            return_dict_in_generate=True, output_scores=True)
    sequences = []
    for row in output.sequences[:, len(prompt):].tolist():
        ends = [k for k, token in enumerate(row) if token in options['eosTokenIds']]
        sequences.append({'tokens': row[:ends[0]] if ends else row, 'finishReason': 'stop' if ends else 'length'})
    if options.get('numBeams', 1) > 1:
        for sequence, score in zip(sequences, output.sequences_scores.tolist()):
            sequence['score'] = score
    return sequences


def generation_options(random, vocabulary):
    """Greedy and beam searches over what may interact. The end ids are many, so that texts do end."""
    ends = [3] + [random.integer(4, vocabulary - 1) for _ in range(7)]
    words = [[random.integer(4, vocabulary - 1)] for _ in range(8)] + [[random.integer(4, vocabulary - 1), random.integer(4, vocabulary - 1)] for _ in range(8)]
    bias = {str(random.integer(4, vocabulary - 1)): round(6 * random.next() - 3, 3) for _ in range(5)}
    base = {'maxNewTokens': 20, 'eosTokenIds': ends}
    parts = [{'repetitionPenalty': 1.3}, {'noRepeatNgramSize': 2}, {'minNewTokens': 8}, {'badWords': words}, {'logitBias': bias}]
    mixture = {'repetitionPenalty': 1.2, 'noRepeatNgramSize': 3, 'minNewTokens': 5, 'badWords': words, 'logitBias': bias}
    sets = [base] + [base | part for part in parts] + [base | mixture]
    beams = [{'numBeams': 4}, {'numBeams': 4, 'lengthPenalty': 2.0}, {'numBeams': 4, 'lengthPenalty': -1.5}, {'numBeams': 4, 'lengthPenalty': 0.0},
             {'numBeams': 3, 'earlyStopping': True}, {'numBeams': 5, 'earlyStopping': 'never'}, {'numBeams': 4, 'earlyStopping': 'never', 'lengthPenalty': -0.5},
             {'numBeams': 8, 'numReturnSequences': 8}, {'numBeams': 2, 'eosTokenIds': [3], 'maxNewTokens': 12}]
    sets += [base | beam for beam in beams]
    sets += [base | {'numBeams': 4, 'numReturnSequences': 3} | part for part in parts + [mixture]]
    return sets


def same_tokens(a, b):
    return [item['tokens'] for item in a] == [item['tokens'] for item in b]


def generation_cases(models):
    cases, dropped = [], 0
    for number, name in enumerate(('sequential', 'parallel', 'rope-linear')):
        folder = models / name
        single, double = (prefixed_model(folder, dtype) for dtype in (torch.float32, torch.float64))
        prefix = load_file(folder / 'reference.safetensors')['prefix']
        random = Random(100 + number)
        for options in generation_options(random, single.config.vocab_size):
            for kind, past in (('base', None), ('prefix', prefix)):
                for _ in range(10):
                    prompt = [random.integer(4, single.config.vocab_size - 1) for _ in range(random.integer(1, 10))]
                    result = generated_by(single, past, prompt, options)
                    if same_tokens(result, generated_by(double, past, prompt, options)):
                        break
                    dropped += 1
                else:
                    raise SystemExit(f'no prompt without a near tie for {name} {options}')
                cases.append({'model': name, 'kind': kind, 'prompt': prompt, 'options': options, 'sequences': result})
        check_with_peft(folder, prefix, [case for case in cases if case['model'] == name and case['kind'] == 'prefix'])
    print(f'{len(cases)} generations; {dropped} were near ties; {sum(s["finishReason"] == "stop" for c in cases for s in c["sequences"])} texts end')
    return cases


@torch.no_grad()
def check_with_peft(folder, prefix, cases):
    """PEFT, with the same prefix, generates the same tokens."""
    length = prefix.shape[0]
    peft = get_peft_model(load_model(folder, torch.float32), PrefixTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=length)).eval()
    peft.prompt_encoder.default.embedding.weight.copy_(prefix.reshape(length, -1))
    for case in cases:
        ids = torch.tensor([case['prompt']])
        config = generation_config(case['options'])
        config.do_sample = False
        rows = peft.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)[:, len(case['prompt']):].tolist()
        for row, sequence in zip(rows, case['sequences']):
            if row[:len(sequence['tokens'])] != sequence['tokens']:
                raise SystemExit(f'PEFT generates {row} and not {sequence["tokens"]} with {case["options"]}')


# ---- scores ----

def logits_and_states(model, prefix, ids):
    model.prefix = prefix
    output = model(torch.tensor([ids]), past_key_values=DynamicCache(config=model.config), use_cache=True, output_hidden_states=True)
    return output.logits[0].float(), [state[0].float() for state in output.hidden_states]


def token_logprobs(logits, targets):
    return torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(targets).unsqueeze(1))[:, 0]


def window_perplexity(model, prefix, ids, window, stride):
    """The sliding window of transformers' guide to perplexity, with every token counted once."""
    total, count, end = 0.0, 0, 1
    for begin in range(0, len(ids), stride):
        last = min(begin + window, len(ids))
        logits, _ = logits_and_states(model, prefix, ids[begin:last])
        first = max(end - begin, 1)  # the first position in the window that is not scored yet
        total -= token_logprobs(logits[first - 1:-1], ids[begin + first:last]).double().sum().item()
        count += last - begin - first
        end = last
        if last == len(ids):
            return {'loss': total / count, 'tokens': count}


@torch.no_grad()
def score_cases(models):
    cases = []
    for name in ('sequential', 'parallel'):
        folder = models / name
        model = prefixed_model(folder, torch.float32)
        vocabulary = model.config.vocab_size
        random = Random(7)
        for kind, prefix in (('base', None), ('prefix', load_file(folder / 'reference.safetensors')['prefix'])):
            prompt = [random.integer(4, vocabulary - 1) for _ in range(6)]
            continuations = [[random.integer(4, vocabulary - 1) for _ in range(length)] for length in (1, 3, 7)]
            greedy = generated_by(model, prefix, prompt, {'maxNewTokens': 4, 'eosTokenIds': []})[0]['tokens']
            scores = []
            for continuation in continuations + [greedy]:
                logits, _ = logits_and_states(model, prefix, prompt + continuation[:-1])
                logits = logits[len(prompt) - 1:]
                scores.append({'tokens': continuation, 'logprobs': token_logprobs(logits, continuation).tolist(),
                               'isGreedy': logits.argmax(-1).tolist() == continuation})
            text = [random.integer(4, vocabulary - 1) for _ in range(41)]
            windows = [{'window': window, 'stride': stride} | window_perplexity(model, prefix, text, window, stride)
                       for window, stride in ((41, 20), (60, 30), (16, 8), (10, 9), (7, 1), (2, 1))]
            logits, states = logits_and_states(model, prefix, prompt)
            best = torch.log_softmax(logits, dim=-1).topk(3)
            cases.append({'model': name, 'kind': kind, 'prompt': prompt, 'scores': scores, 'text': text, 'windows': windows,
                          'top': [[[token, value] for token, value in zip(tokens, values)] for tokens, values in zip(best.indices.tolist(), best.values.tolist())],
                          'last': [state[-1].tolist() for state in states], 'mean': [state.mean(0).tolist() for state in states]})
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--models', type=pathlib.Path, required=True)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    options = parser.parse_args()
    make_deterministic()
    quiet()
    options.out.mkdir(parents=True, exist_ok=True)
    model = load_model(options.models / 'sequential', torch.float32)
    write_json(options.out / 'processors.json', processor_cases(model))
    write_json(options.out / 'generate.json', generation_cases(options.models))
    write_json(options.out / 'score.json', score_cases(options.models))


if __name__ == '__main__':
    main()
