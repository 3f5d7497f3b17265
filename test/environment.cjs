const { TestEnvironment } = require('jest-environment-node');

// Jest runs each test file in a realm of its own, but an addon makes its values in the main one. Two remedies, so that
// `instanceof` and the matchers see in the tests what a program sees:

/** Classes without a literal: the main realm's are used in place of the test's. */
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

/** Classes that the language itself makes values of: the test's own accept the main realm's values too. */
const ACCEPTING = [
  'Array',
  'Object',
  'Function',
  'Promise',
  'Map',
  'Set',
  'Error',
  'TypeError',
  'RangeError',
  'SyntaxError',
];

module.exports = class extends TestEnvironment {
  constructor(config, context) {
    super(config, context);
    for (const name of SHARED) this.global[name] = globalThis[name];
    for (const name of ACCEPTING) {
      const own = this.global[name];
      const main = globalThis[name];
      Object.defineProperty(own, Symbol.hasInstance, {
        value(value) {
          // Inherited by subclasses, which keep the ordinary rule.
          return Function.prototype[Symbol.hasInstance].call(this, value) || (this === own && value instanceof main);
        },
      });
    }
  }
};
