import type { Exchange } from './exchange';

/**
 * An answer of server-sent events. Its head goes out with the first of them, so that what is refused before has a
 * status of its own.
 */
export class EventStream {
  private readonly timer: NodeJS.Timeout;
  private waiting = '';

  constructor(private readonly exchange: Exchange) {
    const { keepAliveSeconds } = exchange.limits;
    // Proxies cut connections that are silent: while a request waits in the queue, or its prompt is long.
    this.timer = setInterval(() => this.write(': keep-alive\n\n'), keepAliveSeconds * 1e3);
    this.timer.unref();
  }

  get begun(): boolean {
    return this.exchange.response.headersSent;
  }

  /** One event; it goes out with {@link flush}. */
  add(data: string): void {
    this.waiting += `data: ${data}\n\n`;
  }

  /** Sends what was added as one write, and waits while the client does not keep up. */
  async flush(): Promise<void> {
    const { waiting } = this;
    this.waiting = '';
    if (waiting === '') return;
    this.timer.refresh();
    if (!this.write(waiting)) await this.exchange.drained();
  }

  /** The end. Nothing may be added any more. */
  end(): void {
    clearInterval(this.timer);
    const { response } = this.exchange;
    if (!response.headersSent && this.waiting === '') return;
    this.write(this.waiting);
    this.waiting = '';
    response.end();
  }

  /** Ends without a word, where nothing was sent. */
  drop(): void {
    clearInterval(this.timer);
  }

  private write(text: string): boolean {
    const { response, headers } = this.exchange;
    if (response.destroyed || response.writableEnded) return true;
    if (!response.headersSent) {
      response.writeHead(200, {
        ...headers,
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-cache',
        'x-accel-buffering': 'no',
      });
      response.socket?.setNoDelay(true);
    }
    return response.write(text);
  }
}
