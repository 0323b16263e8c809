/* lathe: the program. Picks the sub-command; everything else is in cli/cmd_*.c. */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

typedef struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} command;

static const command commands[] = {
    {"tokenizer", lt_cmd_tokenizer, "train a tokenizer; text to ids and back"},
    {"prepare", lt_cmd_prepare, "instruction records or text to a tokenised HDF5 dataset"},
    {"init", lt_cmd_init, "make a fresh model"},
    {"train", lt_cmd_train, "train or fine-tune a model"},
    {"generate", lt_cmd_generate, "answer prompts with a model"},
    {"chat", lt_cmd_chat, "talk with a model in the terminal"},
    {"score", lt_cmd_score, "log-probability of each token of a text"},
    {"eval", lt_cmd_eval, "measure a model on tasks and data, compare two"},
    {"merge", lt_cmd_merge, "put a LoRA adapter into its model's weights"},
    {"export", lt_cmd_export, "write a model for transformers, vLLM, PEFT or llama.cpp"},
    {"inspect", lt_cmd_inspect, "show what is in a dataset, model, adapter or checkpoint"},
    {"devices", lt_cmd_devices, "list CPU and GPUs, and what --device auto chooses"},
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static void print_help(FILE *out)
{
    fputs("usage: lathe COMMAND [OPTIONS]\n\n"
          "Train, fine-tune and run transformer decoders.\n\n",
          out);
    for (int i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].summary);
    fputs("\n'lathe COMMAND --help' lists a command's options; 'lathe --version' prints the "
          "version.\n",
          out);
}

static int unknown_command(const char *word)
{
    const char *names[COMMAND_COUNT];
    for (int i = 0; i < COMMAND_COUNT; i++)
        names[i] = commands[i].name;
    const char *nearest = lt_nearest_name(word, names, COMMAND_COUNT);
    fprintf(stderr, "lathe: error: unknown command '%s'", word);
    if (nearest) fprintf(stderr, "; did you mean '%s'?", nearest);
    fputs("\nTry 'lathe --help'.\n", stderr);
    return LT_EXIT_USAGE;
}

/* GNU OpenMP's threads spin for milliseconds at each barrier. On a machine that has other work to
 * do this makes two threads slower than one, since the one that is waited for does not get a core
 * (a training step of a small model took 244 ms beside one busy process, 155 ms with a short spin,
 * and no less on an idle machine). The library reads its settings before main, so the program
 * starts itself once more with this one set, unless the user has chosen. */
static void spin_briefly(char **argv)
{
    char path[PATH_MAX];
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0 || setenv("GOMP_SPINCOUNT", "2000", 1) != 0) return;
    path[length] = '\0';
    execv(path, argv); /* on failure all still works, only slower */
}

int main(int argc, char **argv)
{
    spin_briefly(argv);
    signal(SIGXFSZ, SIG_IGN); /* a file too large is then an error that can be told */
    if (argc < 2) {
        print_help(stderr);
        return LT_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return LT_EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("lathe " LATHE_VERSION);
        return LT_EXIT_OK;
    }
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 2, argv + 2);
    }
    return unknown_command(argv[1]);
}
