/* A bar of progress on the last line of a terminal, redrawn in place. */
#ifndef LT_CLI_BAR_H
#define LT_CLI_BAR_H

#include <stdbool.h>
#include <stdio.h>

#define LT_BAR_INTERVAL 0.1 /* seconds between redraws */

typedef struct lt_bar {
    FILE *out; /* the terminal */
    bool shown;
} lt_bar;

/* "[######......]  50%  text", cut at the terminal's width. */
void lt_bar_draw(lt_bar *bar, double share, const char *text);
/* Before anything else is printed there. */
void lt_bar_clear(lt_bar *bar);

/* "0:07", "2:05:00" */
void lt_cli_format_duration(double seconds, char out[32]);

#endif
