import { Fuzzer } from '../../../fuzz/fuzzer';
import { FORMATS } from '../../../fuzz/targets';
import { temporaryFolder } from '../../helpers';

const folder = temporaryFolder();

/** A short run with a fixed seed; `npm run fuzz` goes on for as long as one likes, and is guided by coverage. */
test.each(FORMATS)('%s: random files give an error of ours or something that can be used', async (format) => {
  const fuzzer = new Fuzzer(format, folder.join(format), 20_220_901);
  while (fuzzer.runs < 150) await fuzzer.step();
  expect([...fuzzer.findings.values()].map(({ problem }) => problem)).toEqual([]);
});
