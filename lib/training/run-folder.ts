import { appendFile, mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileError, writeFileAtomic } from '../files';
import type { PrefixEncoder } from '../prefix/encoder';
import type { PrefixWeights } from '../prefix/weights';
import type { TrainingEvent } from './events';
import type { Recipe } from './recipe';

/** The folder of a training run. Every file in it is replaced atomically; metrics.jsonl is appended to. */
export class RunFolder {
  private constructor(readonly path: string) {}

  static async create(path: string, recipe: Recipe): Promise<RunFolder> {
    const folder = new RunFolder(resolve(path));
    try {
      await mkdir(folder.path, { recursive: true });
    } catch (cause) {
      throw fileError(cause, 'create', folder.path);
    }
    await writeFileAtomic(folder.file('recipe.json'), [Buffer.from(`${JSON.stringify(recipe, null, 2)}\n`)]);
    await writeFileAtomic(folder.file('metrics.jsonl'), []);
    return folder;
  }

  async log(event: TrainingEvent): Promise<void> {
    const path = this.file('metrics.jsonl');
    try {
      await appendFile(path, `${JSON.stringify(event)}\n`);
    } catch (cause) {
      throw fileError(cause, 'write', path);
    }
  }

  async savePrefix(kind: 'best' | 'last', prefix: PrefixWeights): Promise<string> {
    const path = this.file(`${kind}.safetensors`);
    await prefix.save(path);
    return path;
  }

  async saveEncoder(encoder: PrefixEncoder): Promise<void> {
    await encoder.save(this.file('encoder.safetensors'));
  }

  private file(name: string): string {
    return join(this.path, name);
  }
}
