"""The same with transformers.

    python bench/first-token/reference.py MODEL_FOLDER DTYPE ATTENTION THREADS
"""
import os
import sys

os.environ['HF_HUB_OFFLINE'] = '1'

import torch  # noqa: E402
from transformers import GPTNeoXForCausalLM  # noqa: E402

folder, dtype, attention, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation=attention)
ids = torch.tensor([[5]])
out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, min_new_tokens=1, do_sample=False, pad_token_id=0)
print(int(out[0, -1]), flush=True)
