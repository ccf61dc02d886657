#include "emulator/source.h"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace dyndeploy::emulator {

void print_source(const void* caller) {
  const auto address = reinterpret_cast<uintptr_t>(caller) - 1;  // within the call, not after it
  Dl_info info{};
  void* extra = nullptr;
  if (!caller || !dladdr1(reinterpret_cast<void*>(address), &info, &extra, RTLD_DL_LINKMAP)) return;
  const auto* map = static_cast<const link_map*>(extra);
  const uintptr_t offset = address - map->l_addr;
  char file[512] = "";  // the program's own name is empty in its map
  if (map->l_name && *map->l_name)
    std::snprintf(file, sizeof file, "%s", map->l_name);
  else if (readlink("/proc/self/exe", file, sizeof file - 1) < 0)
    return;

  char command[1024];
  std::snprintf(command, sizeof command, "addr2line -e '%s' -p -f -i -C 0x%zx 2>/dev/null", file, offset);
  bool found = false;
  if (FILE* lines = popen(command, "r")) {
    char line[1024];
    for (int i = 0; i < 6 && std::fgets(line, sizeof line, lines); ++i) {
      // "function at file:line", then "(inlined by) function at file:line"
      const char* const at = std::strstr(line, " at ");
      if (!at || std::strstr(at, "??")) continue;
      line[std::strcspn(line, "\n")] = 0;
      if (char* const detail = std::strstr(line, " (discriminator")) *detail = 0;
      std::fprintf(stderr, "    %s%s\n", found ? "called at " : "at ", at + 4);
      found = true;
    }
    while (std::fgets(line, sizeof line, lines)) {
    }
    pclose(lines);
  }
  if (!found) std::fprintf(stderr, "    at %s + 0x%zx\n", file, offset);
}

}  // namespace dyndeploy::emulator
