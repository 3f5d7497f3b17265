import type { Recipe } from './recipe';

/** Where dynamic loss scaling stands; part of a run's state. */
export interface LossScaleState {
  scale: number;
  /** Steps in a row without an overflow. */
  steadySteps: number;
}

const INITIAL_SCALE = 65_536;
const GROWTH_INTERVAL = 2000;
/** A gradient that overflows at this scale would overflow without any. */
const SMALLEST_SCALE = 2 ** -14;

/**
 * Dynamic loss scaling (Micikevicius et al. 2018, "Mixed Precision Training"), with the constants of
 * torch.amp.GradScaler: a factor as large as float16 bears. Other types have the range of float32, or nearly, and need
 * none.
 */
export class LossScale {
  private constructor(
    private readonly isDynamic: boolean,
    private readonly state: LossScaleState,
  ) {}

  static create({ lossScale }: Pick<Recipe, 'lossScale'>, dtype: string, saved?: LossScaleState): LossScale {
    const isDynamic = lossScale === 0 && dtype === 'float16';
    return new LossScale(
      isDynamic,
      saved ?? { scale: lossScale > 0 ? lossScale : isDynamic ? INITIAL_SCALE : 1, steadySteps: 0 },
    );
  }

  get scale(): number {
    return this.state.scale;
  }

  save(): LossScaleState {
    return { ...this.state };
  }

  /**
   * Learns whether the last step could be applied.
   * @returns false when the gradient is not finite for another reason than the scale
   */
  update(applied: boolean): boolean {
    const { state } = this;
    if (!applied) {
      state.steadySteps = 0;
      if (!this.isDynamic || state.scale <= SMALLEST_SCALE) return false;
      state.scale /= 2;
      return true;
    }
    state.steadySteps++;
    if (this.isDynamic && state.steadySteps >= GROWTH_INTERVAL) {
      state.scale *= 2;
      state.steadySteps = 0;
    }
    return true;
  }
}
