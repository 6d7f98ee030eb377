// What the npm package etcd3 can do, against the member at $ENDPOINT.
const assert = require('node:assert');
const { Etcd3 } = require('etcd3');

(async () => {
  const client = new Etcd3({ hosts: process.env.ENDPOINT });
  await client.put('foo').value('bar');
  assert.strictEqual(await client.get('foo').string(), 'bar');
  assert.deepStrictEqual(await client.getAll().prefix('f').keys(), ['foo']);

  const watcher = await client.watch().prefix('w/').create();
  const seen = new Promise((resolve) => watcher.on('put', (kv) => resolve(kv.value.toString())));
  await client.put('w/1').value('seen');
  assert.strictEqual(await seen, 'seen');
  await watcher.cancel();

  const lease = client.lease(10);
  await lease.put('leased').value('x');
  assert.ok((await lease.keepaliveOnce()).TTL > 0);
  await lease.revoke();
  assert.strictEqual(await client.get('leased').string(), null);

  assert.strictEqual(await client.lock('l').do(async () => 'held'), 'held');

  const election = client.election('e', 5);
  const campaign = election.campaign('candidate');
  await campaign.wait();
  assert.strictEqual(await election.leader(), 'candidate');
  await campaign.resign();

  const outcome = await client.if('foo', 'Value', '==', 'bar').then(client.put('foo').value('baz')).else(client.get('foo')).commit();
  assert.ok(outcome.succeeded);
  const n = await client.stm().transact(async (tx) => {
    await tx.put('stm').value('1');
    return tx.get('foo').string();
  });
  assert.strictEqual(n, 'baz');
  await client.delete().all();
  assert.deepStrictEqual(await client.getAll().keys(), []);
  client.close();
  console.log('done');
})().catch((err) => { console.error(err); process.exit(1); });
