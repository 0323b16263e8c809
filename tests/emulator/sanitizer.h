/* EMULATOR_ASAN: 1 where the build has AddressSanitizer, which is then told about stacks and
 * memory. */
#ifndef LT_EMULATOR_SANITIZER_H
#define LT_EMULATOR_SANITIZER_H

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ASAN 1
#endif
#endif
#ifndef EMULATOR_ASAN
#define EMULATOR_ASAN 0
#endif
#if EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#endif
