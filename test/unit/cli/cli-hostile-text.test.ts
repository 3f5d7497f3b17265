/** What stands in a file does not steer the terminal that shows it, and forges no line. */
import { PrefixWeights } from '../../../lib/prefix/weights';
import { fields, table } from '../../../lib/cli/text-columns';
import { temporaryFolder } from '../../helpers';
import { cli } from './cli-helpers';

const folder = temporaryFolder();
const HOSTILE = 'task\u001b[2J\u0007\r\u009b31m\u202e\nsha256  0000';

const STEERING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202e]/;

test('the metadata of a prefix', async () => {
  const path = folder.join('hostile.safetensors');
  const shape = { prefixLength: 1, numLayers: 1, numHeads: 1, headSize: 2 };
  const metadata = {
    task: HOSTILE,
    baseModel: { name: HOSTILE },
    recipe: { [HOSTILE]: HOSTILE },
    metrics: { [HOSTILE]: 1 },
  };
  await PrefixWeights.fromTensor(new Float32Array(4), { ...shape, metadata }).save(path);
  const { code, stdout, stderr } = await cli(['inspect', path]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toContain('task\\u001b[2J\\u0007\\u000d\\u009b31m\\u202e\\nsha256  0000');
  expect(stdout).not.toMatch(STEERING);
  expect(stdout.match(/^sha256/gm)).toHaveLength(1);
});

test('every cell and every field', () => {
  const escaped = 'a\\u001b\\nb';
  expect(table(['x\u001b'], [['a\u001b\nb']])).toBe(`x\\u001b\n${escaped}`);
  expect(fields([['na\nme', 'a\u001b\nb']])).toBe(`na\\nme  ${escaped}`);
});

test('a path, in results, warnings and errors', async () => {
  const { code, stdout, stderr } = await cli(['inspect', folder.join('no\u001b[31m\rsuch')]);
  expect(code).toBe(1);
  expect(stdout + stderr).not.toMatch(STEERING);
  expect(stderr).toContain('no\\u001b[31m\\u000dsuch');
});
