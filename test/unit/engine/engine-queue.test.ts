import { AdmissionQueue, PRIORITY_STEP } from '../../../lib/engine/queue';

const ticket = (arrival: number, priority = 0): { arrival: number; priority: number } => ({ arrival, priority });

function drained(queue: AdmissionQueue<{ arrival: number; priority: number }>): number[] {
  const order: number[] = [];
  for (let item = queue.shift(); item !== undefined; item = queue.shift()) order.push(item.arrival);
  return order;
}

test('requests of one priority leave as they came, in whatever order their prefixes became ready', () => {
  const queue = new AdmissionQueue<{ arrival: number; priority: number }>();
  for (const arrival of [3, 0, 2, 4, 1]) queue.add(ticket(arrival));
  expect(queue.head).toEqual(ticket(0));
  expect(queue.size).toBe(5);
  expect(drained(queue)).toEqual([0, 1, 2, 3, 4]);
  expect(queue.head).toBeUndefined();
});

test('a priority overtakes so many and no more', () => {
  const queue = new AdmissionQueue<{ arrival: number; priority: number }>();
  for (let arrival = 0; arrival < 40; arrival++) queue.add(ticket(arrival));
  queue.add(ticket(40, 1));
  queue.add(ticket(41, 2));
  // 40 stands as 24, 41 as 9; where two stand alike, the one that came first is first.
  const order = drained(queue);
  expect(order.indexOf(40)).toBe(26);
  expect(order.indexOf(41)).toBe(10);
  expect(order.filter((arrival) => arrival < 40)).toEqual(Array.from({ length: 40 }, (_, i) => i));
});

test('nobody starves under requests of a higher priority that never end', () => {
  const queue = new AdmissionQueue<{ arrival: number; priority: number }>();
  queue.add(ticket(0));
  let admitted = 0;
  for (let arrival = 1; queue.size > 0; arrival++) {
    queue.add(ticket(arrival, 3));
    if (queue.shift()?.arrival === 0) break;
    admitted++;
  }
  expect(admitted).toBeLessThanOrEqual(3 * PRIORITY_STEP);
});

test('who leaves the queue is not admitted', () => {
  const queue = new AdmissionQueue<{ arrival: number; priority: number }>();
  const items = [ticket(0), ticket(1), ticket(2)];
  for (const item of items) queue.add(item);
  queue.remove(items[1]!);
  queue.remove(items[1]!);
  expect(drained(queue)).toEqual([0, 2]);
});
