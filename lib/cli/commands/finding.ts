/** What was found, for --json and for people. */
export interface Finding {
  kind:
    'prefix' | 'encoder' | 'checkpoint' | 'fastertransformer' | 'triton' | 'triton-repository' | 'run' | 'tokenizer';
  path: string;
  /** For --json. */
  data: object;
  text: string;
  warnings?: readonly string[];
}

export interface InspectFlags {
  args: string[];
  model?: string;
  prefixSeqLen?: number;
  tensors?: boolean;
}
