/**
 * Wraps an object so that `onError(method, error)` is called when a method's promise rejects. Method names become a
 * metric's label, so use it on small interfaces of our own, such as PrefixStore.
 */
export function observeErrors<T extends object>(target: T, onError: (method: string, error: unknown) => void): T {
  return new Proxy(target, {
    get(object, property) {
      const value: unknown = Reflect.get(object, property, object);
      if (typeof value !== "function" || typeof property !== "string") return value;
      return (...args: unknown[]): unknown => {
        const result: unknown = Reflect.apply(value, object, args);
        // A second handler on the promise: the caller still sees the rejection.
        if (result instanceof Promise) result.catch((error: unknown) => onError(property, error));
        return result;
      };
    },
  });
}

/** Names of the methods that `observeErrors` can report: those of the object's class, or its own functions. */
export function methodsOf(target: object): string[] {
  const owner = Object.getPrototypeOf(target) === Object.prototype ? target : (Object.getPrototypeOf(target) as object);
  return Object.entries(Object.getOwnPropertyDescriptors(owner)).flatMap(([name, { value }]) =>
    typeof value === "function" && name !== "constructor" ? [name] : [],
  );
}
