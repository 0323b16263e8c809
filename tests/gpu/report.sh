# shellcheck shell=bash disable=SC2154 # card, capability, memory, driver, versions, began, command_line: the scripts set them
# How scripts/gpu_check.sh and scripts/gpu_bench.sh end: a table, and the same as JSON. Sourced by common.sh.

# As a JSON string.
quote() {
    local text=$1
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\t'/ }
    printf '"%s"' "$(tr -d '\000-\037' <<<"$text")"
}

commit() { git rev-parse --short HEAD 2>/dev/null || echo unknown; }

# The first members of both files.
json_machine() {
    printf '  "card": %s,\n  "capability": "%s",\n  "memory_gb": %s,\n' "$(quote "$card")" "$capability" "$memory"
    printf '  "driver_cuda": "%s",\n  "toolkit_cuda": "%s",\n' "$driver" "${cuda_version:-}"
    printf '  "host": %s,\n' "$(quote "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) threads")"
    printf '  "date": "%s",\n  "commit": "%s",\n  "command": %s,\n' "$(date -u +%FT%TZ)" "$(commit)" "$(quote "$command_line")"
    printf '  "seconds": %d,\n' $((SECONDS - began))
}

# json_list NAME LAST FUNCTION: a member that is a list; FUNCTION prints each element for the fields of a line of stdin.
json_list() {
    local separator=''
    printf '  "%s": [' "$1"
    while IFS= read -r line; do
        printf '%s\n    ' "$separator"
        # tabs that follow each other are empty fields: read would take them for one
        mapfile -td $'\x1f' fields < <(printf '%s' "${line//$'\t'/$'\x1f'}")
        "$3" "${fields[@]}"
        separator=,
    done
    printf '\n  ]%s\n' "$2"
}

json_text() { quote "$1"; }

# --- scripts/gpu_check.sh: lines of stage, name, result, seconds, detail --------------------------

count_results() { awk -F'\t' -v result="$2" '$3 == result' "$1" | wc -l; }

json_stage() {
    printf '{"stage": "%s", "name": %s, "result": "%s", "seconds": %s, "detail": %s}' "$1" "$(quote "$2")" "${3,,}" "$4" \
        "$(quote "${5:-}")"
}

report_check() { # RESULTS JSON
    local passed failed skipped
    passed=$(count_results "$1" pass) failed=$(count_results "$1" FAIL) skipped=$(count_results "$1" skipped)
    {
        echo "{"
        json_machine
        printf '  "passed": %d,\n  "failed": %d,\n  "skipped": %d,\n' "$passed" "$failed" "$skipped"
        json_list stages "" json_stage <"$1"
        echo "}"
    } >"$2"
    echo
    echo "== $card, commit $(commit), $(date -u +%F), $((SECONDS - began)) s"
    awk -F'\t' '{ printf "%-10s %-34s %-8s %7s  %s\n", $1, $2, $3, $4, substr($5, 1, 90) }' "$1"
    echo "$passed passed, $failed failed, $skipped skipped; $2"
}

# --- scripts/gpu_bench.sh: lines of section, name, who, value, unit -------------------------------
#
# Figures of the same section, name and unit are compared: Lathe's over each other one. "work" is no figure of its own:
# it says how much a token takes, for MFU and for the bound of decoding.

# Adds what follows from other figures, and Lathe's figure over each of the others' as a sixth field.
complete_figures() { # RESULTS
    awk -F'\t' -v OFS='\t' '
        NR == FNR {
            if ($1 == "copy" && $2 == "ceiling") copy = $4
            if ($1 == "card" && $2 == "bf16 peak") peak = $4
            if ($3 == "work") work[$1, $2] = $4
            next
        }
        $1 == "table" || $3 == "work" && seen[$1, $2]++ { next }
        { print }
        $1 == "train" && $5 == "tokens/s" && peak && (($1, $2) in work) {
            print $1, $2 " MFU", $3, 100 * $4 * work[$1, $2] / 1000 / peak, "%"
        }
        $1 == "decode" && $3 == "work" && copy { print $1, $2, "bandwidth bound", copy / $4, "tokens/s" }
    ' "$1" "$1" | awk -F'\t' -v OFS='\t' '
        { line[NR] = $0; if ($3 == "lathe") ours[$1, $2, $5] = $4 }
        END {
            for (i = 1; i <= NR; i++) {
                split(line[i], f, "\t")
                known = f[3] != "lathe" && f[3] != "work" && ((f[1], f[2], f[5]) in ours) && f[4] > 0
                print line[i], known ? sprintf("%.3f", ours[f[1], f[2], f[5]] / f[4]) : ""
            }
        }'
}

# One line for each name and unit: Lathe's figure, then the others.
bench_table() { # FIGURES
    awk -F'\t' '
        { key = $1 SUBSEP $2 SUBSEP $5
          if (!(key in place)) { place[key] = ++count; section[count] = $1; name[count] = $2; unit[count] = $5 }
          n = place[key]
          if ($3 == "lathe") ours[n] = sprintf("%.4g", $4)
          else others[n] = others[n] sprintf("  %s %.4g%s", $3, $4, $6 == "" ? "" : sprintf(" (%.2f)", $6)) }
        END {
            for (i = 1; i <= count; i++)
                printf "%-9s %-52s %9s %-10s %s\n", section[i], name[i], ours[i] == "" ? "-" : ours[i], unit[i], others[i]
        }' "$1"
}

json_figure() {
    printf '{"section": "%s", "name": %s, "who": %s, "value": %s, "unit": %s' "$1" "$(quote "$2")" "$(quote "$3")" "$4" \
        "$(quote "${5:-}")"
    [ -z "${6:-}" ] || printf ', "lathe_over_it": %s' "$6"
    printf '}'
}

table_lines() { sed -n 's/^table\t//p' "$1"; }

report_bench() { # RESULTS NOTES JSON
    local figures=$1.complete
    complete_figures "$1" >"$figures"
    {
        echo "{"
        json_machine
        printf '  "peers": %s,\n' "$(quote "$versions")"
        json_list figures , json_figure <"$figures"
        table_lines "$1" | json_list matmul_table , json_text
        json_list notes "" json_text <"$2"
        echo "}"
    } >"$3"
    echo
    echo "== $card, commit $(commit), $(date -u +%F), $((SECONDS - began)) s; $versions"
    echo "== Lathe's figure, then others' (Lathe's as a multiple of it)"
    bench_table "$figures"
    if [ -n "$(table_lines "$1")" ]; then
        echo
        echo "for kernels/cuda/matmul_table.h: products of at least so many multiply-adds were faster with cuBLAS"
        table_lines "$1" | sed 's/^/    /'
    fi
    echo
    cat "$2"
    echo "$(wc -l <"$figures") figures; $3"
}
