// `kernels.ts MODEL BACKEND DTYPE`: prints what this process's kernels compute: logits, loss and gradients.
import { NeoXModel, type LoadOptions, type ModelDType } from '../../../lib/model/neox-model';
import { native } from '../../../lib/native';
import { PrefixEncoder } from '../../../lib/prefix/encoder';

void (async () => {
  const [folder = '', wanted = '', dtype = ''] = process.argv.slice(2);
  const backends = native().systemInfo().backends as Record<string, string[] | undefined>;
  const backend = (wanted === 'auto' || backends[wanted]?.includes(dtype) ? wanted : 'auto') as NonNullable<LoadOptions['backend']>;
  await using model = await NeoXModel.load(folder, { threads: 1, backend, dtype: dtype as ModelDType });
  const rows = [5, 70, 1].map((length, r) => Array.from({ length }, (_, i) => (7 * i + 3 * r) % model.config.vocabSize));
  const encoder = await PrefixEncoder.create(model, { prefixLength: 7, init: 'random' });
  const { logits } = await model.forward({ inputIds: rows, pastKeyValues: await encoder.prefix() });
  const addon = native();
  const trainer = await addon.createTrainer(model.native, encoder.native, { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0 });
  const tokens = Int32Array.from(rows.flat());
  const { loss } = await addon.trainerAccumulate(model.native, trainer, {
    tokens,
    targets: tokens.toReversed(),
    lengths: Int32Array.from(rows, (row) => row.length),
  });
  const gradients = await addon.trainerGradients(model.native, trainer, encoder.native);
  const values = { kernels: addon.systemInfo().kernels, backend: model.info().backend, loss, logits: [...(logits?.data ?? [])] };
  process.stdout.write(
    JSON.stringify({ ...values, gradients: Object.fromEntries(Object.entries(gradients).map(([name, data]) => [name, [...data]])) }),
  );
})();
