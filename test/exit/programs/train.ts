// node -r test/typescript.cjs train.ts MODEL OUTPUT: a run that is resumed where it was, until it is done. Prints a
// line at each step.
import { NeoXModel } from '../../../lib/neox-model';
import { PrefixTrainer } from '../../../lib/training/prefix-trainer';
import { RESUMED_RUN, resumedData } from './resumed-run';

async function main([path, outputDir]: string[]): Promise<void> {
  const model = await NeoXModel.load(path as string, { threads: 1 });
  const trainer = new PrefixTrainer(model, { ...RESUMED_RUN, outputDir: outputDir as string });
  await trainer.train(resumedData(), { resume: true, onEvent: ({ type }) => process.stdout.write(`${type}\n`) });
  await model.dispose();
}

void main(process.argv.slice(2));
