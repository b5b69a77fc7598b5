"""The texts of the cures: what to write, with ``$table``, ``$column``, ``$key`` and ``$model``."""

from __future__ import annotations

from dataclasses import dataclass
from string import Template

__all__ = ["RECIPES", "Recipe", "filled"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One cure. ``sql`` is for PostgreSQL, and for SQLite too where ``sqlite`` is empty; the forms
    for an ORM are left out where they are empty, and so is the ``part`` of crowdsafe."""

    title: str
    sql: str
    sqlite: str = ""
    sqlalchemy: str = ""
    django: str = ""
    part: str = ""

    def plain(self, flavour: str, sqlite: bool, words: dict[str, str]) -> str:
        """The SQL, and below it the form for the ORM in use. A cure that is only for SQLite is the
        same in every ORM."""
        if sqlite and self.sqlite:
            return filled(self.sqlite, words)
        orm = {"sqlalchemy": self.sqlalchemy, "django": self.django}.get(flavour, "")
        return filled(f"{self.sql}\n\n{orm}" if orm else self.sql, words)


def filled(text: str, words: dict[str, str]) -> str:
    return Template(text).safe_substitute(words)


RECIPES = {
    "count down": Recipe(
        "Check and change in one statement",
        "UPDATE $table SET $column = $column - :n WHERE $key = :$key AND $column >= :n;\n"
        "-- 0 rows changed: there is not enough, refuse",
        sqlalchemy="done = session.execute(\n    update($model)\n"
        "    .where($model.$key == $key, $model.$column >= n)\n"
        "    .values($column=$model.$column - n)\n)\nif done.rowcount == 0:\n    ...  # refuse",
        django="done = $model.objects.filter($key=$key, ${column}__gte=n)"
        '.update($column=F("$column") - n)\nif not done:\n    ...  # refuse',
        part="store.write(take, $model.$column, n, where=$model.$key == $key)",
    ),
    "count up": Recipe(
        "Check and change in one statement",
        "UPDATE $table SET $column = $column + :n WHERE $key = :$key;\n"
        "-- with a limit: AND $column <= :limit - :n, and 0 rows changed means refuse",
        sqlalchemy="session.execute(\n    update($model)\n    .where($model.$key == $key)\n"
        "    .values($column=$model.$column + n)\n)",
        django='$model.objects.filter($key=$key).update($column=F("$column") + n)',
        part="store.write(give, $model.$column, n, where=$model.$key == $key)",
    ),
    "lock": Recipe(
        "Lock the row before reading it",
        "SELECT ... FROM $table WHERE $key = :$key FOR UPDATE;  -- others wait until COMMIT",
        sqlite="BEGIN IMMEDIATE;  -- before the SELECT of $table: others wait here until COMMIT",
        sqlalchemy="session.get($model, $key, with_for_update=True)",
        django="with transaction.atomic():\n"
        "    row = $model.objects.select_for_update().get($key=$key)",
        part="store.write(mutate, $model, $key, change)  # change(row) gets the row as it is now",
    ),
    "version": Recipe(
        "Save only if nobody saved meanwhile",
        "UPDATE $table SET $column = :$column, version = version + 1\n"
        "WHERE $key = :$key AND version = :version_read;\n"
        "-- 0 rows changed: someone else saved first",
        sqlalchemy="# in $model: version = mapped_column(Integer)\n"
        '#           __mapper_args__ = {"version_id_col": version}',
        django="done = $model.objects.filter($key=$key, version=row.version).update(\n"
        '    $column=value, version=F("version") + 1\n)\n'
        "if not done:\n    ...  # someone else saved first",
        part='store.write(\n    edit, $model, $key,\n    base={"$column": value_read}, '
        'changes={"$column": value}, by=user,\n)',
    ),
    "move": Recipe(
        "Move it only from the state that was read",
        "UPDATE $table SET $column = :to WHERE $key = :$key AND $column $was;\n"
        "-- 0 rows changed: someone else moved it; stop here",
        sqlalchemy="done = session.execute(\n    update($model)\n"
        "    .where($model.$key == $key, $model.$column$was_orm)\n    .values($column=to)\n)\n"
        "if done.rowcount == 0:\n    ...  # moved already",
        django="if not $model.objects.filter($key=$key, $column=$was_here).update($column=to):\n"
        "    ...  # moved already",
        part='store.write(transition, $model, $key, "$column", from_=$was_here, to=to, by=user)',
    ),
    "remove": Recipe(
        "Believe the DELETE, not the SELECT before it",
        "DELETE FROM $table WHERE $key = :$key;\n-- 0 rows deleted: someone else was first; stop",
        sqlalchemy="done = session.execute(delete($model).where($model.$key == $key))\n"
        "if done.rowcount == 0:\n    ...  # someone else was first",
        django="deleted, _ = $model.objects.filter($key=$key).delete()\n"
        "if not deleted:\n    ...  # someone else was first",
    ),
    "unique": Recipe(
        "Let a unique constraint decide",
        "CREATE UNIQUE INDEX $index ON $table ($columns)$only;\n"
        "INSERT INTO $table ($columns, ...) VALUES (...)\nON CONFLICT ($columns)$only DO NOTHING;\n"
        "-- 0 rows inserted: it is there already, read it",
        sqlalchemy="# in $model: __table_args__ = (UniqueConstraint($quoted),)\n"
        "session.execute(insert($model).values(...).on_conflict_do_nothing())",
        django="# in $model.Meta: constraints = [\n"
        '#     UniqueConstraint(fields=[$quoted], name="$index")]\n'
        "row, made = $model.objects.get_or_create($given, defaults={...})",
        part="row, made = store.write(get_or_create, $model, defaults, $given)",
    ),
    "on conflict": Recipe(
        "Insert first, and read what is there on a conflict",
        "INSERT INTO $table ($columns, ...) VALUES (...) ON CONFLICT ($columns) DO NOTHING;\n"
        "-- 0 rows inserted: it is there already, read it",
        sqlalchemy="session.execute(insert($model).values(...).on_conflict_do_nothing())",
        django="row, made = $model.objects.get_or_create($given, defaults={...})",
        part="row, made = store.write(get_or_create, $model, defaults, $given)",
    ),
    "counter": Recipe(
        "Take the number from a counter",
        "-- a row that counts, instead of looking at what is in $table:\n"
        "INSERT INTO counters (name, value) VALUES ('$table', 1)\n"
        "ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value;",
        part='number = next_number(session, "$table")  # in the write that inserts the row',
    ),
    "serializable": Recipe(
        "Run it as if it were alone",
        "BEGIN ISOLATION LEVEL SERIALIZABLE;\n-- and run it again when it ends in SQLSTATE 40001",
        sqlite="BEGIN IMMEDIATE;  -- before the first SELECT that the decision is built on",
        sqlalchemy='create_engine(url, isolation_level="SERIALIZABLE")  # and retry 40001',
        part="store.write(your_function)  # serializable, and run again when it lost",
    ),
    "parent": Recipe(
        "Lock what they share before looking",
        "SELECT ... FROM parent WHERE id = :parent_id FOR UPDATE;\n"
        "-- the row that the rows of $table belong to: who counts and who adds wait for it",
        sqlite="BEGIN IMMEDIATE;  -- before the SELECT of $table: others wait here until COMMIT",
        sqlalchemy="session.get(Parent, parent_id, with_for_update=True)",
        django="Parent.objects.select_for_update().get(pk=parent_id)",
        part="store.write(your_function, lane=parent_id)  # one at a time for each parent",
    ),
    "one transaction": Recipe(
        "Make the steps one transaction",
        "BEGIN;\n... every step that touches $table ...\nCOMMIT;  -- one, at the end",
        sqlalchemy="with Session(engine) as session, session.begin():\n"
        "    ...  # all steps, and no commit between them",
        django="with transaction.atomic():\n    ...  # all steps (or ATOMIC_REQUESTS = True)",
        part="store.write(all_the_steps)",
    ),
    "one moment": Recipe(
        "Read everything at one moment",
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;  -- all SELECTs see one moment",
        sqlite="BEGIN;  -- before the first SELECT: all of them then see one moment",
        part="store.read(your_function)",
    ),
    "before commit": Recipe(
        "Answer with what the same transaction saw",
        "UPDATE $table SET ... WHERE ... RETURNING *;  -- or SELECT it before the COMMIT:\n"
        "-- after it, the rows may be another's already",
        sqlalchemy="session.flush()\nsession.refresh(row)\nanswer = ...  # all that is told\n"
        "session.commit()  # no row is read after it (or expire_on_commit=False)",
        part="store.write(your_function)  # what it returns is of its own transaction",
    ),
    "retry": Recipe(
        "Run it again when the database says so",
        "-- on SQLSTATE 40001 or 40P01: wait a random moment, run the whole transaction again;\n"
        "-- after some seconds answer 503 with Retry-After",
        sqlite="BEGIN IMMEDIATE;  -- waits for the file (busy_timeout), does not fail half-way\n"
        "-- on SQLITE_BUSY: run the whole transaction again; after some seconds answer 503",
        part="store.write(your_function)",
    ),
    "same order": Recipe(
        "Lock rows in one order everywhere",
        "SELECT $key FROM $table WHERE $key IN (...) ORDER BY $key FOR UPDATE;  -- then write",
        sqlalchemy="select($model).where(...).order_by($model.$key).with_for_update()",
        django='$model.objects.select_for_update().filter(...).order_by("$key")',
    ),
    "once": Recipe(
        "Do it once for each request",
        "-- keep the client's request key, and the answer, in a table with a unique key,\n"
        "-- in the same transaction as the effects; give the kept answer to a repeat",
        part='store.write(once, key, effects, request=body, scope=f"user:{user_id}")',
    ),
    "no dirty reads": Recipe(
        "Read only what is committed",
        "PRAGMA read_uncommitted = 0;",
        part="store.read(your_function)",
    ),
}
