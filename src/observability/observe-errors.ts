/**
 * The same object, with `onError(method, error)` called whenever a method's promise is rejected. The methods' names are the label
 * of a metric, so the object is one of ours with a handful of methods, such as a PrefixStore.
 */
export function observeErrors<T extends object>(target: T, onError: (method: string, error: unknown) => void): T {
  return new Proxy(target, {
    get(object, property) {
      const value: unknown = Reflect.get(object, property, object);
      if (typeof value !== "function" || typeof property !== "string") return value;
      return (...args: unknown[]): unknown => {
        const result: unknown = Reflect.apply(value, object, args);
        // A second branch of the promise: the caller's own branch still sees the rejection.
        if (result instanceof Promise) result.catch((error: unknown) => onError(property, error));
        return result;
      };
    },
  });
}
