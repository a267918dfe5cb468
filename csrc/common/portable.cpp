// Definitions in place of what newer systems alone have, so that a library built here loads wherever manylinux_2_28
// wheels do (glibc 2.28, libstdc++ of GCC 8): linked into every library, seen by none but it.
#include <new>
#include <sstream>  // compiled with _GLIBCXX_EXTERN_TEMPLATE=0, see setup.py

// The constructors and accessors that libstdc++ got after GCC 8.
template class std::basic_stringbuf<char>;
template class std::basic_ostringstream<char>;
template class std::basic_stringstream<char>;

namespace std {
void __throw_bad_array_new_length() { throw std::bad_array_new_length(); }
}  // namespace std

extern "C" {

// Of glibc 2.32: whether locks can be left out. Never.
char __libc_single_threaded = 0;

// glibc 2.29 has new versions of these, which leave errno to the caller; the old ones are there too.
double exp_of_glibc_2_2_5(double);
double log_of_glibc_2_2_5(double);
double pow_of_glibc_2_2_5(double, double);
__asm__(".symver exp_of_glibc_2_2_5, exp@GLIBC_2.2.5");
__asm__(".symver log_of_glibc_2_2_5, log@GLIBC_2.2.5");
__asm__(".symver pow_of_glibc_2_2_5, pow@GLIBC_2.2.5");
double exp(double x) noexcept { return exp_of_glibc_2_2_5(x); }
double log(double x) noexcept { return log_of_glibc_2_2_5(x); }
double pow(double x, double y) noexcept { return pow_of_glibc_2_2_5(x, y); }
}
