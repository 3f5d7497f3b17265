const { TestEnvironment } = require('jest-environment-node');

// Jest runs each test file in a realm of its own, but an addon makes its values in the main one, and matchers compare
// the classes of arrays: the main realm's are used in place of the test's. The library itself works without; there is
// a test of it in test/package.
const SHARED = [
  'ArrayBuffer',
  'SharedArrayBuffer',
  'DataView',
  ...[
    'Int8',
    'Uint8',
    'Uint8Clamped',
    'Int16',
    'Uint16',
    'Int32',
    'Uint32',
    'Float32',
    'Float64',
    'BigInt64',
    'BigUint64',
  ].map((t) => `${t}Array`),
];

module.exports = class extends TestEnvironment {
  constructor(config, context) {
    super(config, context);
    for (const name of SHARED) this.global[name] = globalThis[name];
  }
};
