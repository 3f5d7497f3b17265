import { checkDevice } from '../../../lib/model/load-checks';

const machine = (cudaDevices: number) => () => ({ cudaAvailable: cudaDevices > 0, cudaDevices });

test('a GPU that is there is taken, and the CPU asks nobody', () => {
  expect(checkDevice('cuda', machine(1))).toBe('cuda');
  expect(checkDevice('cuda:1', machine(2))).toBe('cuda:1');
  const nobody = (): never => {
    throw new Error('asked');
  };
  expect(checkDevice('cpu', nobody)).toBe('cpu');
});

test.each([
  ['cuda:7', 1, 'The device cuda:7 is not available: there is one GPU, cuda:0\nHint: `neox-prefix doctor` lists them'],
  ['cuda:2', 2, 'The device cuda:2 is not available: there are 2 GPUs, cuda:0 to cuda:1\nHint: '],
  ['cuda', 0, 'The device cuda is not available: this libtorch sees no CUDA\nHint: '],
])('%s of %d GPUs', (device, count, message) => {
  expect(() => checkDevice(device, machine(count))).toThrow(expect.objectContaining({ code: 'NEOX_UNSUPPORTED' }));
  expect(() => checkDevice(device, machine(count))).toThrow(message);
});
