/** Activations of the feed-forward layer, by Hugging Face's names; names of the same formula are folded into one. */
export const ACTIVATIONS = [
  'gelu',
  'gelu_new',
  'gelu_fast',
  'gelu_pytorch_tanh',
  'gelu_10',
  'quick_gelu',
  'relu',
  'relu2',
  'relu6',
  'leaky_relu',
  'silu',
  'hardswish',
  'mish',
  'sqrtsoftplus',
  'sigmoid',
  'tanh',
  'laplace',
  'linear',
] as const;

/** An activation of the feed-forward layer. */
export type HiddenAct = (typeof ACTIVATIONS)[number];

/** transformers/activations.py: other names of the same formula. */
export const ACTIVATION_ALIASES: Readonly<Record<string, HiddenAct>> = {
  gelu_python: 'gelu',
  gelu_python_tanh: 'gelu_new',
  gelu_accurate: 'gelu_new',
  swish: 'silu',
};

/** What else stands in transformers' table, and why it is not here. */
export const UNSUPPORTED_ACTIVATIONS: Readonly<Record<string, string>> = {
  prelu: 'it has a weight of its own in every layer',
  xielu: 'it has weights of its own in every layer',
};
