import t from "tap";
import { load } from "../../src/cli/load.ts";

t.test("bad usage is explained, and nothing is sent", async (t) => {
  const wrong: [string[], RegExp][] = [
    [[], /give --scenario/],
    [["--scenario", "smoke", "--rate", "0"], /--rate 0: expected a number above 0/],
    [["--scenario", "smoke", "--prefixes", "1.5"], /--prefixes 1\.5: expected a whole number/],
    [["--scenario", "smoke", "--prefixes", "0"], /prefixes\.count/],
    [["--scenario", "smoke", "--url", "ftp://a"], /--url ftp:\/\/a: expected http or https/],
    [["--scenario", "smoke", "--url", "nowhere"], /--url nowhere: not an address/],
    [["--scenario", "smoke", "--shape", "1,2"], /--shape 1,2/],
    [["--scenario", "smoke", "--model-config", "package.json"], /lacks n_layer/],
    [["--scenario", "smoke", "--trace", "none.jsonl", "--url", "http://127.0.0.1:1"], /none\.jsonl/],
    [["--scenario", "steady", "--rate", "5", "--calibrate"], /--rate and --calibrate/],
    [["--scenario", "noisy-neighbour"], /needs several users: give the admin key/],
    [["--compare", "one.json"], /two files/],
    [["--compare", "package.json", "package.json"], /not a result of prefixd load/],
    [["--bogus"], /--bogus/],
    [["smoke"], /unexpected operand smoke/],
  ];
  for (const [args, message] of wrong) await t.rejects(load(args), { name: "ConfigError", message }, args.join(" "));
});
