/** Types are checked by `npm run lint`; here they are only stripped. */
module.exports = {
  roots: ['<rootDir>/test'],
  testMatch: ['**/*.test.ts'],
  testEnvironment: '<rootDir>/test/environment.cjs',
  transform: { '\\.ts$': ['ts-jest', { tsconfig: 'test/tsconfig.json', diagnostics: false }] },
  reporters: ['default', '<rootDir>/test/reporter.cjs'],
  maxWorkers: 2,
  testTimeout: 60_000,
};
