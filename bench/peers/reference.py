"""transformers and PEFT as peers, and rinna's recipe for prefix tuning as it was published: what bench/protocol.mts asks, in Python.

    python bench/peers/reference.py peft DTYPE ATTENTION     a PEFT prefix-tuning adapter over transformers' model
    python bench/peers/reference.py rinna DTYPE ATTENTION    rinna's encoder and batches (rinnakk/prefix-tuning-gpt), training only
"""
import json
import os
import pathlib
import random
import sys
import time

KIND, DTYPE, ATTENTION = sys.argv[1:]
# Only answers go to stdout, whatever a library prints.
answers = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)
os.environ['HF_HUB_OFFLINE'] = '1'

import torch  # noqa: E402  (after stdout is safe, as are those below)

PREFIX_LENGTH = 10
IGNORED = -100


def timed(amount, action):
    started = time.perf_counter()
    action()
    return {'seconds': time.perf_counter() - started, 'amount': amount}


class RinnaEncoder(torch.nn.Module):
    """Embedding, linear, tanh, linear, once for every row of the batch."""

    def __init__(self, config, width=10):
        super().__init__()
        self.heads, self.layers = config.num_attention_heads, config.num_hidden_layers
        self.prefix_wte = torch.nn.Embedding(PREFIX_LENGTH, width)
        self.prefix_mlp = torch.nn.Sequential(
            torch.nn.Linear(width, width), torch.nn.Tanh(), torch.nn.Linear(width, self.layers * 2 * config.hidden_size))

    def forward(self, rows, dtype):
        ids = torch.arange(PREFIX_LENGTH).unsqueeze(0).expand(rows, -1)
        values = self.prefix_mlp(self.prefix_wte(ids)).to(dtype)  # [B, P, L*2*H]
        return values.view(rows, PREFIX_LENGTH, self.layers, 2, self.heads, -1).permute(2, 3, 0, 4, 1, 5)  # [L, 2, B, N, P, D]


class Peer:
    def load(self, model, threads, scratch):
        return timed(1, lambda: self._load(model, threads, pathlib.Path(scratch)))

    def _load(self, folder, threads, scratch):
        from transformers import GPTNeoXForCausalLM
        from transformers.utils import logging
        logging.set_verbosity_error()
        torch.set_num_threads(threads)
        torch.manual_seed(7)
        self.base = GPTNeoXForCausalLM.from_pretrained(folder, dtype=getattr(torch, DTYPE), attn_implementation=ATTENTION)
        self.base.eval().requires_grad_(False)
        self.vocabulary = self.base.config.vocab_size
        self.scratch = scratch
        if KIND == 'rinna':
            self.encoder = RinnaEncoder(self.base.config)
        else:
            from peft import PrefixTuningConfig, get_peft_model
            config = PrefixTuningConfig(
                task_type='CAUSAL_LM', num_virtual_tokens=PREFIX_LENGTH, prefix_projection=True, encoder_hidden_size=10, token_dim=None)
            self.model = get_peft_model(self.base, config, adapter_name='a')
            self.model.add_adapter('b', config)
            self.model.set_adapter('a')
            self.model.save_pretrained(str(scratch))  # a folder for each adapter
            self.encoder = self.model.prompt_encoder['a']

    @torch.no_grad()
    def check(self, prompts, probes):
        model = self.base
        rows = [model(torch.tensor([ids])).logits[0, -1].float() for ids in prompts]
        return {'tokens': [int(row.argmax()) for row in rows],
                'logProbabilities': [torch.log_softmax(row, -1)[probes].tolist() for row in rows]}

    def _loss(self, ids, mask, labels):
        if KIND == 'peft':
            return self.model(input_ids=ids, attention_mask=mask, labels=labels).loss
        from transformers import DynamicCache
        cache = DynamicCache(config=self.base.config)
        for layer, (keys, values) in enumerate(self.encoder(ids.shape[0], self.base.dtype)):
            cache.update(keys, values, layer)
        mask = torch.cat([torch.ones(ids.shape[0], PREFIX_LENGTH, dtype=mask.dtype), mask], 1)
        logits = self.base(ids, attention_mask=mask, past_key_values=cache).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)

    def _train(self, batches):
        """Target tokens of the batches of rows (token ids, each a target but the first)."""
        optimizer = torch.optim.AdamW(self.encoder.parameters(), lr=1e-4, betas=(0.9, 0.99))
        count = 0
        for rows in batches:
            longest = max(map(len, rows))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
            labels = ids.masked_fill(mask == 0, IGNORED)
            self._loss(ids, mask, labels).backward()
            torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            count += int((labels[:, 1:] != IGNORED).sum())
        return count

    def _measure_training(self, batches):
        started = time.perf_counter()
        count = self._train(batches)
        return {'seconds': time.perf_counter() - started, 'amount': count}

    def train(self, rows, length, steps):
        batches = [torch.randint(self.vocabulary, (rows, length)).tolist() for _ in range(steps)]
        return {**self._measure_training(batches), 'amount': rows * length * steps}

    def epoch(self, file):
        with open(file) as source:
            samples = json.load(source)
        random.Random(42).shuffle(samples)
        config = self.base.config
        batches = [[row for sample in samples[i:i + 4]
                    for row in ([config.bos_token_id] + sample + [config.eos_token_id], sample + [config.eos_token_id])]
                   for i in range(0, len(samples), 4)]
        return self._measure_training(batches)

    @torch.no_grad()
    def prefill(self, length):
        ids = torch.randint(self.vocabulary, (1, length))
        return timed(length, lambda: self.base(ids, logits_to_keep=1, use_cache=True))

    def decode(self, rows, tokens):
        ids = torch.randint(self.vocabulary, (rows, 1))
        return timed(rows * tokens, lambda: self._generate(ids, tokens))

    @torch.no_grad()
    def _generate(self, ids, tokens):
        out = self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                                  do_sample=False, pad_token_id=0)
        if out.shape[1] < tokens:
            raise RuntimeError(f'{out.shape[1]} tokens came instead of {tokens}')

    def requests(self, prefix, count):
        ids = torch.randint(self.vocabulary, (1, 1))
        self.model.set_adapter('a')

        def run():
            for i in range(count):
                name = 'ab'[i % 2]
                if prefix == 'swap':
                    self.model.set_adapter(name)
                elif prefix == 'disk':
                    self.model.load_adapter(str(self.scratch / name), f'disk{i}')
                    self.model.set_adapter(f'disk{i}')
                self._generate(ids, 1)

        work = timed(count, run)
        self.model.set_adapter('a')
        if prefix == 'disk':
            for i in range(count):
                self.model.delete_adapter(f'disk{i}')
        return work

    def limit(self, what, threads):
        torch.set_num_threads(threads)

        def best_of(amount, action):
            action()
            return min((timed(amount, action) for _ in range(3)), key=lambda work: work['seconds'])

        def product(size):
            a, b = (torch.randn(size, size).to(getattr(torch, what)) for _ in range(2))
            return best_of(2 * size ** 3, lambda: torch.mm(a, b))

        if what in ('float32', 'bfloat16'):
            small = product(512)
            # Without instructions for the dtype a large product takes minutes.
            return product(2048) if small['seconds'] < 0.02 else small
        source = torch.ones(1 << 26)  # 256 MB
        target = torch.empty_like(source)
        return best_of(source.nbytes, source.sum if what == 'read' else lambda: target.copy_(source))


peer = Peer()
for line in sys.stdin:
    question = json.loads(line)
    try:
        handler = getattr(peer, question['operation'], None)
        if handler is None:
            raise RuntimeError(f"This peer cannot do '{question['operation']}'")
        answer = {'id': question['id'], 'answer': handler(**question['args'])}
    except Exception as error:  # told to who asked
        answer = {'id': question['id'], 'error': f'{type(error).__name__}: {error}'}
    print(json.dumps(answer), file=answers, flush=True)
