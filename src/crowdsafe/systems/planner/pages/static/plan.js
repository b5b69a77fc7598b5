/** A plan is read and printed; everything on it is there from the start. */

document.getElementById("print").addEventListener("click", () => print());
