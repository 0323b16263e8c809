#include "cli/bar.h"

#include <inttypes.h>
#include <sys/ioctl.h>

enum { CELLS = 24 };

void lt_bar_clear(lt_bar *bar)
{
    if (bar->shown) fputs("\r\033[K", bar->out);
    bar->shown = false;
}

static int terminal_width(FILE *terminal)
{
    struct winsize size;
    return ioctl(fileno(terminal), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void lt_bar_draw(lt_bar *bar, double share, const char *text)
{
    char cells[CELLS + 1], line[512];
    for (int i = 0; i < CELLS; i++)
        cells[i] = i < share * CELLS ? '#' : '.';
    cells[CELLS] = '\0';
    snprintf(line, sizeof line, "[%s] %3.0f%%  %s", cells, 100 * share, text);
    /* a line that wraps can not be redrawn in place */
    fprintf(bar->out, "\r\033[K%.*s", terminal_width(bar->out) - 1, line);
    fflush(bar->out);
    bar->shown = true;
}

void lt_cli_format_duration(double seconds, char out[32])
{
    int64_t s = seconds > 0 && seconds < 1e9 ? (int64_t)(seconds + 0.5) : 0;
    if (s >= 3600)
        snprintf(out, 32, "%" PRId64 ":%02d:%02d", s / 3600, (int)(s / 60 % 60), (int)(s % 60));
    else
        snprintf(out, 32, "%d:%02d", (int)(s / 60), (int)(s % 60));
}
