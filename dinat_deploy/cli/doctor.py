"""``dinat-deploy doctor``"""

from __future__ import annotations

import click

from dinat_deploy.cli.console import EXIT_FAILED, json_option, print_json, print_table


@click.command(short_help="What is installed, what is missing, how to get it.")
@json_option
def doctor(as_json: bool) -> int:
    """Show what is installed, what each missing piece would enable, and how to install it.

    Exits with 1 if something that export needs is missing.
    """
    from dinat_deploy.pipeline.diagnosing import doctor as run

    checks = run()
    complete = all(check.found for check in checks if check.required)
    if as_json:
        print_json([check.to_dict() for check in checks])
    else:
        rows = [
            [
                check.name,
                check.found or ("MISSING" if check.required else "-"),
                check.enables,
                "" if check.found else check.install,
            ]
            for check in checks
        ]
        print_table("", ["", "found", "for", "install with"], rows)
        click.echo(
            "Everything that export, verify and infer need is here."
            if complete
            else "Something that export needs is missing; install what is marked MISSING."
        )
    return 0 if complete else EXIT_FAILED
