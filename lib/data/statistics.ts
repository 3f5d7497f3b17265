/** What was found when the samples of a dataset were read. */
export interface DatasetStatistics {
  samples: number;
  /** Tokens that are not learned: prompts, in conversations all that is not the assistant's. */
  promptTokens: number;
  /** Tokens that are learned, without the end-of-sequence token behind each completion. */
  completionTokens: number;
  /** Tokens of the longest sample, prompt and completion. */
  longest: number;
  /** Tokens of the shortest sample. */
  shortest: number;
  /** Largest token id. */
  largestId: number;
  /** Conversations with more than one turn of the assistant. */
  conversations: number;
  /** Samples whose end was cut. */
  truncated: number;
  /** Tokens that were cut off. */
  truncatedTokens: number;
  /** Samples that were left out because they are too long. */
  dropped: number;
  /** Documents whose end was left out when their lines were packed (see `keepRemainder`). */
  remainders: number;
  /** Samples that are equal to an earlier one, token by token. They are kept. */
  duplicates: number;
  /** Whether there may be more duplicates: the first 3 million different samples are remembered. */
  duplicatesAreLowerBound: boolean;
  /** Lines without text, which are skipped. */
  emptyLines: number;
}

export function noStatistics(): DatasetStatistics {
  return {
    samples: 0,
    promptTokens: 0,
    completionTokens: 0,
    longest: 0,
    shortest: 0,
    largestId: 0,
    conversations: 0,
    truncated: 0,
    truncatedTokens: 0,
    dropped: 0,
    remainders: 0,
    duplicates: 0,
    duplicatesAreLowerBound: false,
    emptyLines: 0,
  };
}
