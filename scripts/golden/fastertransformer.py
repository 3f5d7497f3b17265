"""Record the bytes that NVIDIA's converter writes for the golden models, as one SHA-256 a file.

    python scripts/golden/fastertransformer.py --converter PATH/huggingface_gptneox_convert.py \\
        --gpt-converter PATH/huggingface_gpt_convert.py --models test/fixtures/golden

The converters are examples/pytorch/{gptneox,gpt}/utils/*.py of NVIDIA/FasterTransformer at COMMIT. They are run as they
are; what today's transformers calls differently is given back to them under the old name.
"""
import argparse
import contextlib
import hashlib
import io
import multiprocessing
import multiprocessing.pool
import pathlib
import runpy
import sys
import tempfile
from unittest import mock

import torch

from common import load_model, quiet, write_json

COMMIT = 'df4a753'
MODELS = {'sequential': 'gptneox', 'parallel': 'gptneox', 'gpt2': 'gpt'}  # by their section of config.ini


def load_with_old_names(folder):
    """A model as transformers of the converter's time had it: rotary_pct in the config, the output head called embed_out."""
    model = load_model(folder, torch.float32)
    model.config.rotary_pct = model.config.rope_parameters['partial_rotary_factor']
    parameters = [(name.replace('lm_head.', 'embed_out.'), value) for name, value in model.named_parameters()]
    model.named_parameters = lambda: iter(parameters)
    return model


def convert(converter, folder, section, dtype, tensor_parallel):
    """Every file the converter writes for one model, and the text of its config.ini."""
    with tempfile.TemporaryDirectory() as out, contextlib.ExitStack() as stack:
        arguments = [str(converter), '-o', out, '-i', str(folder), '-i_g', str(tensor_parallel), '-p', '1',
                     '-weight_data_type', dtype, *(['-m_n', section] if section == 'gptneox' else [])]
        stack.enter_context(mock.patch.object(sys, 'argv', arguments))
        stack.enter_context(mock.patch('transformers.GPTNeoXForCausalLM', mock.Mock(from_pretrained=load_with_old_names)))
        # Threads in the place of processes: a spawned process would import torch again for every file.
        stack.enter_context(mock.patch.object(multiprocessing, 'Pool', multiprocessing.pool.ThreadPool))
        stack.enter_context(mock.patch.object(torch.multiprocessing, 'set_start_method'))
        printed = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        runpy.run_path(str(converter), run_name='__main__')
        complaints = [line for line in printed.getvalue().splitlines() if line.startswith(('Fail', 'Unused', '[ERROR]', 'skipped'))]
        if complaints:
            raise SystemExit('\n'.join(complaints))
        written = pathlib.Path(out) / f'{tensor_parallel}-gpu'
        files = {}
        for path in sorted(written.glob('*.bin')):
            content = path.read_bytes()
            files[path.name] = {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
        # The converter of GPT takes the folder's path for the model's name.
        config = (written / 'config.ini').read_text().replace(f'model_name = {folder}', f'model_name = {section}')
        return {'dtype': dtype, 'tensorParallel': tensor_parallel, 'configIni': config, 'files': files}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--converter', type=pathlib.Path, required=True)
    parser.add_argument('--gpt-converter', type=pathlib.Path, required=True)
    parser.add_argument('--models', type=pathlib.Path, required=True, help='the folder of the golden models')
    options = parser.parse_args()
    quiet()
    for name, section in MODELS.items():
        folder = options.models / name
        converter = options.converter if section == 'gptneox' else options.gpt_converter
        conversions = [convert(converter, folder, section, dtype, ranks) for dtype in ('fp32', 'fp16') for ranks in (1, 2)]
        source = f'NVIDIA/FasterTransformer {COMMIT}, {converter.name}'
        write_json(folder / 'fastertransformer.json', {'source': source, 'modelName': section, 'conversions': conversions})
        print(f'{name}: {[len(conversion["files"]) for conversion in conversions]} files')


if __name__ == '__main__':
    main()
