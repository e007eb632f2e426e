/** Objects that are released together, the last one first. Node 20 has no DisposableStack. */
export class Disposables implements Disposable {
  readonly #objects: Disposable[] = [];

  /** Takes ownership of an object, and returns it. */
  use<T extends Disposable>(object: T): T {
    this.#objects.push(object);
    return object;
  }

  [Symbol.dispose](): void {
    for (const object of this.#objects.splice(0).reverse()) object[Symbol.dispose]();
  }
}
