/** Progress in bytes. `total` is 0 while it is not known. */
export interface FetchProgress {
  phase: 'download' | 'unpack';
  done: number;
  total: number;
}

/** What every part of fetching libtorch is given. */
export interface Download {
  signal: AbortSignal | undefined;
  onProgress: (progress: FetchProgress) => void;
}
