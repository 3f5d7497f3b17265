import { changedJson, replaced, type AbuseCase } from './case';

type Changes = Readonly<Record<string, unknown>>;
type Row = readonly [name: string, content: Changes | string, message: string, code?: AbuseCase['code']];

const CONFIG = (
  [
    ['no JSON', '{', 'expected JSON'],
    ['a list', '[]', 'expected a JSON object'],
    ['a number', '1', 'expected a JSON object'],
    ['nesting', `{"a":${'[['.repeat(50_000)}`, 'levels of nesting'],
    ['one key twice', '{"model_type":"gpt_neox","model_type":"gpt_neox"}', "'model_type' is given twice"],
    ['sizes as text', { hidden_size: '8' }, "hidden_size in PATH but found '8'"],
    ['a size of 1e308', { hidden_size: 1e308 }, 'hidden_size'],
    ['a size that is infinite once read', '{"model_type":"gpt_neox","hidden_size":1e999}', 'found Infinity'],
    ['a size of 8.5', { hidden_size: 8.5 }, 'found 8.5'],
    ['a negative size', { num_attention_heads: -2 }, 'found -2'],
    ['no heads', { num_attention_heads: 0 }, 'found 0'],
    ['sizes in a list', { vocab_size: [20] }, 'found an array of 1'],
    ['a size that is true', { num_hidden_layers: true }, 'found true'],
    ['2^31 layers', { num_hidden_layers: 2 ** 31 }, 'an integer between 1 and 10000'],
    ['2^53 positions', { max_position_embeddings: 2 ** 53 }, 'max_position_embeddings'],
    [
      'positions whose angles would take gigabytes',
      { max_position_embeddings: 2 ** 24 },
      'an integer between 1 and 1048576',
    ],
    [
      'positions that are too many for the rotated dimensions',
      { hidden_size: 2 ** 20, max_position_embeddings: 2 ** 20 },
      'at most 512 positions',
    ],
    [
      'a rotary factor of 1e308',
      { rope_parameters: { rope_type: 'linear', factor: 1e308 } },
      'a number from 1 to 1000000',
    ],
    ['heads that do not divide', { num_attention_heads: 3 }, 'a multiple of num_attention_heads'],
    ['more rotary dimensions than there are', { rope_parameters: { partial_rotary_factor: 1.5 } }, 'at most 1'],
    ['a rotary base of 0', { rope_parameters: { rope_theta: 0 } }, 'a number above 1'],
    ['rotary settings as a list', { rope_parameters: [1] }, 'Expected an object for rope_parameters'],
    [
      'rotary settings that are unknown',
      { rope_parameters: { rope_type: '__proto__', factor: 1 } },
      "'__proto__'",
      'NEOX_UNSUPPORTED',
    ],
    ['an epsilon of 0', { layer_norm_eps: 0 }, 'a positive number'],
    ['an epsilon of -1e-5', { layer_norm_eps: -1e-5 }, 'a positive number'],
    ['an activation named like a method', { hidden_act: 'toString' }, "hidden_act 'toString'", 'NEOX_UNSUPPORTED'],
    ['a flag as text', { use_parallel_residual: 'false' }, "found 'false'"],
    ['a flag as a number', { tie_word_embeddings: 1 }, 'true or false'],
    ['token ids as objects', { eos_token_id: [{}] }, 'token ids'],
    ['another model', { model_type: 'llama' }, 'LLaMA has', 'NEOX_UNSUPPORTED'],
    ['a model type that steers a terminal', { model_type: '\u001b[31m' }, '\\u001b[31m', 'NEOX_UNSUPPORTED'],
    ['a model type that is an object', { model_type: {} }, 'of type an object', 'NEOX_UNSUPPORTED'],
    ['weights of another shape', { hidden_size: 16 }, 'config.json asks for', 'NEOX_BAD_CHECKPOINT'],
    ['10,000 layers that are not there', { num_hidden_layers: 10_000 }, 'is missing', 'NEOX_BAD_CHECKPOINT'],
    [
      'sizes at their limits',
      { hidden_size: 2 ** 24, intermediate_size: 2 ** 24, vocab_size: 2 ** 24 },
      'config.json asks for',
      'NEOX_BAD_CHECKPOINT',
    ],
  ] as readonly Row[]
).map(([name, content, message, code = 'NEOX_BAD_CONFIG']): AbuseCase => {
  const text = typeof content === 'string' ? content : changedJson('config', 'config.json', content);
  const path = code !== 'NEOX_BAD_CHECKPOINT' ? 'config.json' : message === 'is missing' ? '' : 'model.safetensors';
  return { format: 'config', name, files: () => replaced('config', 'config.json', text), code, message, path };
});

const ADAPTER = (
  [
    ['no JSON', '{"peft_type"', 'expected JSON'],
    ['a list', '[]', 'expected a JSON object'],
    ['nesting', `{"a":${'['.repeat(10_000)}`, 'levels of nesting'],
    ['one key twice', '{"peft_type":"PREFIX_TUNING","peft_type":"LORA"}', "'peft_type' is given twice"],
    ['another kind', { peft_type: 'LORA' }, "is of type 'LORA'", 'NEOX_UNSUPPORTED'],
    ['a kind that is an object', { peft_type: { a: 1 } }, 'is of type an object', 'NEOX_UNSUPPORTED'],
    ['two submodules', { num_transformer_submodules: 2 }, 'a model of 2 submodules', 'NEOX_UNSUPPORTED'],
    ['positions as text', { num_virtual_tokens: '3' }, 'Expected a positive integer for num_virtual_tokens'],
    ['no positions', { num_virtual_tokens: 0 }, 'Expected a positive integer for num_virtual_tokens'],
    ['2^53 layers', { num_layers: 2 ** 53 }, 'Expected a positive integer for num_layers'],
    [
      'sizes whose product overflows',
      { num_layers: 2 ** 53 - 1, num_attention_heads: 2 ** 53 - 1 },
      'states num_layers 9007199254740991',
    ],
    ['layers of 1e308', { num_layers: 1e308 }, 'Expected a positive integer for num_layers'],
    ['heads that are negative', { num_attention_heads: -2 }, 'Expected a positive integer for num_attention_heads'],
    ['another number of positions than the tensor', { num_virtual_tokens: 4 }, 'states num_virtual_tokens 4'],
  ] as readonly Row[]
).map(([name, content, message, code = 'NEOX_BAD_PREFIX']): AbuseCase => {
  const file = 'adapter_config.json';
  const text = typeof content === 'string' ? content : changedJson('adapter', file, content);
  const path = /divide|states/.test(message) ? 'adapter_model.safetensors' : file;
  return { format: 'adapter', name, files: () => replaced('adapter', file, text), code, message, path };
});

/** Lines to be put in place of those of the same key; a text for a whole file. */
const INI = (
  [
    ['an empty file', '', 'weight_data_type, found nothing'],
    ['no section', 'head_num = 1\n', 'expected a [section] before the first key'],
    ['another section', '[llama]\nhead_num = 1\n', 'weight_data_type, found nothing'],
    ['a section twice', '[gptneox]\n[GPTNeoX]\n', 'section [gptneox] is given twice'],
    ['a key twice', '[gptneox]\nhead_num = 1\nHEAD_NUM = 2\n', 'head_num is given twice'],
    ['a line of 300 bytes', `[gptneox]\nmodel_name = ${'x'.repeat(300)}\n`, 'reads its first 199 bytes only'],
    ['no key', '[gptneox]\n= 1\n', 'expected [section] or key = value'],
    ['a line that goes on', '[gptneox]\nhead_num = 1\n  2\n', 'continues the line before'],
    ['no heads', { head_num: '0' }, 'a whole number from 1 to'],
    ['heads of 1e308', { head_num: '1e308' }, 'a whole number from 1 to'],
    ['a negative size', { size_per_head: '-2' }, 'a whole number from 1 to'],
    ['a size that wraps', { size_per_head: '18446744073709551618' }, 'a whole number from 1 to'],
    ['a hexadecimal size that wraps', { size_per_head: '0x10000000000000002' }, 'a whole number from 1 to'],
    ['heads times size too large', { head_num: '0xffffff', size_per_head: '16777216' }, 'is too large'],
    ['2^31 layers', { num_layer: '2147483648' }, 'a whole number from 1 to 1000'],
    ['1000 layers that are not there', { num_layer: '1000' }, 'model.layers.1.'],
    ['another type', { weight_data_type: 'int8' }, 'expected fp16 or fp32'],
    ['another type than the files', { weight_data_type: 'fp16' }, 'has 80 bytes, expected 40'],
    ['tasks that are not there', { num_tasks: '999999999' }, 'but [task_1] has no task_name'],
    ['tasks of -1', { num_tasks: '-1' }, 'a whole number for num_tasks'],
    ['another kind of prompt', { prompt_learning_type: '3' }, 'expected prompt_learning_type 2'],
    ['a task that climbs out', { task_name: '../../etc/passwd' }, 'cannot be a part of a file name'],
    ['a task whose name has a NUL', { task_name: 'smi\0le' }, 'cannot be a part of a file name'],
    ['a prefix of 1e9 positions', { prompt_length: '1000000000' }, 'a whole number for prompt_length'],
  ] as readonly Row[]
).map(([name, content, message, code = 'NEOX_BAD_EXPORT']): AbuseCase => {
  const file = '1-gpu/config.ini';
  const files = (): ReturnType<AbuseCase['files']> => {
    if (typeof content === 'string') return replaced('ini', file, content);
    const text = (replaced('ini', 'unused', '')[file] as Buffer).toString();
    const lines = text.split('\n').map((line) => {
      const key = line.split(' = ')[0] as string;
      return key in content ? `${key} = ${String(content[key])}` : line;
    });
    return replaced('ini', file, lines.join('\n'));
  };
  const isOfFolder = /from 1 to|too large|has 80 bytes|model\.layers/.test(message);
  return { format: 'ini', name, files, code, message, path: isOfFolder ? '1-gpu' : file };
});

/** Work for each pair of them would take for ever. */
const MANY_RANKS: AbuseCase = {
  format: 'ini',
  name: 'a folder for 10,000 GPUs',
  files: () => {
    const text = (replaced('ini', 'unused', '')['1-gpu/config.ini'] as Buffer).toString();
    const sizes = text.replace('head_num = 1', 'head_num = 10000').replace('inter_size = 3', 'inter_size = 10000');
    return { '10000-gpu/config.ini': Buffer.from(sizes) };
  },
  code: 'NEOX_BAD_EXPORT',
  message: 'is missing (and 1023 more files)',
  path: '10000-gpu',
};

export const SETTINGS_CASES: readonly AbuseCase[] = [...CONFIG, ...ADAPTER, ...INI, MANY_RANKS];
