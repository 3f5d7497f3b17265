import { isNeoXPrefixError, NeoXPrefixError } from '../base/errors';

/** How many are told. */
const LISTED = 10;
/** More, and it is not worth going on. */
const ENOUGH = 1000;

/** What is wrong with data files, collected, so that one reading finds it all. */
export class Problems {
  private readonly listed: NeoXPrefixError[] = [];
  private readonly hints = new Set<string>();
  private count = 0;

  /** @throws all problems, when they are so many that it is not worth going on */
  add(error: NeoXPrefixError, hint?: string): void {
    this.count++;
    if (this.listed.length < LISTED) this.listed.push(error);
    if (hint !== undefined && this.hints.size < LISTED) this.hints.add(hint);
    if (this.count >= ENOUGH) this.throwIfAny();
  }

  /** An error that ended the reading: with the problems before it where it is one of the data, else itself. */
  ending(error: unknown): unknown {
    if (this.count === 0 || this.count >= ENOUGH || !isNeoXPrefixError(error) || error.code !== 'NEOX_BAD_DATA')
      return error;
    this.count++;
    if (this.listed.length < LISTED) this.listed.push(error);
    return this.asError();
  }

  /**
   * @throws NEOX_BAD_DATA with the first ten problems and their number; a single one that is no fault of a line as it
   *   is
   */
  throwIfAny(): void {
    if (this.count > 0) throw this.asError();
  }

  private asError(): NeoXPrefixError {
    const first = this.listed[0] as NeoXPrefixError;
    if (this.count === 1 && first.code !== 'NEOX_BAD_DATA') return first;
    const { path } = first;
    const details = {
      ...(path === undefined ? {} : { path }),
      ...(this.hints.size === 0 ? {} : { hint: [...this.hints].join('; ') }),
    };
    if (this.count === 1)
      return new NeoXPrefixError('NEOX_BAD_DATA', first.message, { ...details, cause: first.cause });
    const number = this.count >= ENOUGH ? `${this.count} problems or more` : `${this.count} problems`;
    const which = this.count > LISTED ? `, of which the first ${LISTED}` : '';
    const list = this.listed.map(({ message }) => `\n  ${message.split('\nHint: ')[0]}`).join('');
    return new NeoXPrefixError('NEOX_BAD_DATA', `The data has ${number}${which}:${list}`, details);
  }
}
