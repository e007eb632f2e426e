/** What `import t from "tap"` is in files that share a process: the test of the file that runs, with all that tap exports. */
import root from "tap";

export * from "tap";

let current = root;

/** From here on `t` is this test. */
export function setCurrent(test) {
  current = test;
}

export default new Proxy(Object.create(null), {
  get: (_, name) => {
    const value = current[name];
    return typeof value === "function" ? value.bind(current) : value;
  },
  set: (_, name, value) => Reflect.set(current, name, value),
});
