import t from "tap";
import { Heartbeats, LEFT } from "../../src/replicas/heartbeats.ts";

t.test("a replica counts as serving until its beat has stood still for the time of grace", (t) => {
  let now = 0;
  const beats = new Heartbeats(1000, () => now);
  beats.observe(["a", "1", "b", "1"]);
  now = 900;
  beats.observe(["a", "2", "b", "1"]);
  t.same(beats.living(), ["a", "b"]);
  now = 1001;
  t.same(beats.living(), ["a"]);
  t.same(beats.takeStill(), [{ replica: "b", beat: "1" }]);
  t.same(beats.takeStill(), [], "once");
  now = 1900;
  t.ok(beats.mayServe("a"), "1,000 after it was seen to change");
  now = 1901;
  t.notOk(beats.mayServe("a"));
  t.end();
});

t.test("any other beat is a sign of life, also an earlier one: the other side may have lost the last ones", (t) => {
  let now = 0;
  const beats = new Heartbeats(1000, () => now);
  beats.observe(["a", "7"]);
  now = 800;
  beats.observe(["a", "5"]);
  now = 1700;
  t.ok(beats.mayServe("a"));
  t.end();
});

t.test("one whose beat is lost still counts; one that left does not, and is struck off later", (t) => {
  let now = 0;
  const beats = new Heartbeats(1000, () => now);
  beats.observe(["a", "1", "b", "1"]);
  beats.observe(["b", LEFT]);
  t.same(beats.living(), ["a"]);
  t.same(beats.takeStill(), []);
  now = 1001;
  t.same(beats.takeStill(), [
    { replica: "a", beat: "1" },
    { replica: "b", beat: LEFT },
  ]);
  t.notOk(beats.mayServe("nobody"));
  t.end();
});
