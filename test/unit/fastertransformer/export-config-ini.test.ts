import { ConfigIni, checkModelName, checkTaskName } from '../../../lib/fastertransformer/config-ini';

describe('ConfigIni', () => {
  it("writes as Python's configparser does", () => {
    const ini = ConfigIni.empty();
    ini.set('gptneox', 'model_name', 'x');
    ini.set('gptneox', 'head_num', 12);
    ini.set('task_0', 'task_name', 'smile face');
    ini.set('task_0', 'prompt_length', 10);
    expect(ini.toString()).toBe(
      '[gptneox]\nmodel_name = x\nhead_num = 12\n\n[task_0]\ntask_name = smile face\nprompt_length = 10\n\n',
    );
  });

  it('keeps what it does not change', () => {
    const text = '; by hand\n[gptneox]\nhead_num=12 ; comment\n# another\nend_id : 3\n\n[Other]\nKEY = a;b\n';
    const ini = ConfigIni.parse(text, 'config.ini');
    expect(ini.toString()).toBe(text);
    expect(ini.get('gptneox', 'head_num')).toBe('12');
    expect(ini.get('gptneox', 'end_id')).toBe('3');
    expect(ini.get('other', 'key')).toBe('a;b');
    ini.set('gptneox', 'num_tasks', 1);
    ini.set('gptneox', 'head_num', 16);
    ini.set('task_0', 'task_name', 'x');
    expect(ini.toString()).toBe(
      '; by hand\n[gptneox]\nhead_num = 16\n# another\nend_id : 3\nnum_tasks = 1\n\n[Other]\nKEY = a;b\n\n[task_0]\ntask_name = x\n\n',
    );
  });

  it('reads what it wrote, with Windows line ends and a byte order mark too', () => {
    const ini = ConfigIni.parse('\uFEFF[gptneox]\r\nmodel_name = a b\r\n\r\n', 'config.ini');
    expect(ini.get('gptneox', 'model_name')).toBe('a b');
    expect(ini.get('gptneox', 'missing')).toBeUndefined();
    expect(ini.get('missing', 'model_name')).toBeUndefined();
  });

  it.each([
    ['key = 1\n', 'Line 1 of config.ini is not usable: expected a [section] before the first key'],
    ['[a]\nkey\n', 'Line 2 of config.ini is not usable: expected [section] or key = value'],
    ['[a]\nkey = 1\n  2\n', 'Line 3 of config.ini is not usable: it continues the line before, which is not supported'],
    ['[a]\nkey = 1\nKEY = 2\n', 'Line 3 of config.ini is not usable: key is given twice in [a]'],
    ['[a]\n[A]\n', 'Line 2 of config.ini is not usable: section [a] is given twice'],
  ])('refuses %j', (text, message) => {
    expect(() => ConfigIni.parse(text, 'config.ini')).toThrow(
      expect.objectContaining({ code: 'NEOX_BAD_EXPORT', message, path: 'config.ini' }) as Error,
    );
  });
});

describe('names', () => {
  it.each(['smileface', 'a b', 'カジュアル', 'a=b:c', '#1', 'v1.2', 'x'.repeat(186)])('takes %j', (name) => {
    expect(checkTaskName(name)).toBe(name);
  });

  it.each([
    ['', 'Expected a non-empty string for task name'],
    [' a', 'Expected a name without blanks at its ends for task name'],
    ['a\u3000', 'Expected a name without blanks at its ends for task name'],
    ['a;b', "Expected a name without ';' and '%', which config.ini cannot hold for task name"],
    ['100%', "Expected a name without ';' and '%', which config.ini cannot hold for task name"],
    ['a\nb', 'Expected a name without control characters for task name'],
    ['a\u0000b', 'Expected a name without control characters for task name'],
    ['a\u2028b', 'Expected a name without control characters for task name'],
    ['\ud800', 'Expected a name without control characters for task name'],
    ['a/b', "Expected a name without '/', '\\' and '..', because it becomes a part of a file name for task name"],
    ['a\\b', "Expected a name without '/', '\\' and '..', because it becomes a part of a file name for task name"],
    ['..', "Expected a name without '/', '\\' and '..', because it becomes a part of a file name for task name"],
    [
      'x'.repeat(187),
      'Expected a name of at most 186 bytes, because FasterTransformer cuts longer lines of config.ini for task name',
    ],
    ['あ'.repeat(63), 'Expected a name of at most 186 bytes'],
  ])('refuses %j', (name, message) => {
    expect(() => checkTaskName(name)).toThrow(
      expect.objectContaining({
        code: 'NEOX_BAD_ARGUMENT',
        message: expect.stringContaining(message) as string,
      }) as Error,
    );
  });

  it('lets a model name have slashes, and 185 bytes', () => {
    expect(checkModelName('modelName', 'rinna/small')).toBe('rinna/small');
    expect(checkModelName('modelName', 'x'.repeat(185))).toHaveLength(185);
    expect(() => checkModelName('modelName', 'x'.repeat(186))).toThrow('Expected a name of at most 185 bytes');
    expect(() => checkModelName('modelName', 'a;')).toThrow(/for modelName but received 'a;'/);
  });
});
