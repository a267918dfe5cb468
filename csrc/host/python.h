// Python's side of the module `_host`, in the limited API: one binary serves every Python from 3.11 on. Arrays come by
// the buffer protocol and are made by NumPy, calls are positional, overloads differ in the dtypes of their arrays.
#pragma once
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace ordkernels::host::python {

struct ErrorIsSet {};  // thrown where Python already knows of an error

struct ValueError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Owns a reference.
class Object {
 public:
  Object() = default;
  explicit Object(PyObject* owned) : object_(owned) {
    if (!owned) {
      throw ErrorIsSet{};
    }
  }
  Object(Object&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Object& operator=(Object&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Object() { Py_XDECREF(object_); }
  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }

 private:
  PyObject* object_ = nullptr;
};

// Python's lock, given back for as long as this lives.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() { PyEval_RestoreThread(state_); }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  PyThreadState* state_;
};

// Of a thread that runs unlocked: throws where the user has pressed Ctrl-C.
inline void check_signals() {
  const PyGILState_STATE state = PyGILState_Ensure();
  const bool interrupted = PyErr_CheckSignals() != 0;
  PyGILState_Release(state);
  if (interrupted) {
    throw ErrorIsSet{};
  }
}

// ---- arrays

// NumPy's kind of a buffer's format: 'f', 'i', 'u', 'b', or '?' for all else (records, other byte orders).
inline char kind_of(const char* format) {
  if (!format || format[0] == 0 || format[1] != 0) {
    return '?';
  }
  const auto is_one_of = [letter = format[0]](const char* letters) { return std::strchr(letters, letter) != nullptr; };
  return is_one_of("efdg") ? 'f' : is_one_of("bhilq") ? 'i' : is_one_of("BHILQ") ? 'u' : is_one_of("?") ? 'b' : '?';
}

template <class T>
constexpr char kKind = std::is_floating_point_v<T> ? 'f' : 'i';

// A C-contiguous array of any type, held until the call returns.
class AnyArray {
 public:
  AnyArray(Object object, int flags) : object_(std::move(object)), view_(new Py_buffer) {
    if (PyObject_GetBuffer(object_.get(), view_.get(), flags | PyBUF_C_CONTIGUOUS) != 0) {
      delete view_.release();  // there is nothing to give back
      throw ErrorIsSet{};
    }
  }
  int64_t ndim() const { return view_->ndim; }
  int64_t shape(int64_t i) const { return view_->shape[i]; }
  int64_t size() const { return view_->len / std::max<Py_ssize_t>(view_->itemsize, 1); }
  int64_t itemsize() const { return view_->itemsize; }
  char kind() const { return kind_of(view_->format); }
  std::string dtype() const { return view_->format ? view_->format : "B"; }
  const void* data() const { return view_->buf; }
  PyObject* object() const { return object_.get(); }

 protected:
  struct Release {
    void operator()(Py_buffer* view) const {
      PyBuffer_Release(view);
      delete view;
    }
  };
  Object object_;
  std::unique_ptr<Py_buffer, Release> view_;
};

inline Object numpy_attribute(const char* name) {
  static PyObject* const numpy = Object(PyImport_ImportModule("numpy")).release();
  return Object(PyObject_GetAttrString(numpy, name));
}

// numpy.empty(shape, dtype)
template <class T>
Object empty_array(std::initializer_list<int64_t> shape) {
  static PyObject* const empty = numpy_attribute("empty").release();
  static PyObject* const dtype = numpy_attribute(sizeof(T) == 2   ? "int16"
                                                 : sizeof(T) == 4 ? (kKind<T> == 'f' ? "float32" : "int32")
                                                                  : (kKind<T> == 'f' ? "float64" : "int64"))
                                     .release();
  Object sizes(PyTuple_New(static_cast<Py_ssize_t>(shape.size())));
  Py_ssize_t i = 0;
  for (int64_t n : shape) {
    PyTuple_SetItem(sizes.get(), i++, Object(PyLong_FromLongLong(n)).release());
  }
  return Object(PyObject_CallFunctionObjArgs(empty, sizes.get(), dtype, nullptr));
}

template <class T>
class Array : public AnyArray {
 public:
  using AnyArray::AnyArray;
  explicit Array(std::initializer_list<int64_t> shape) : AnyArray(empty_array<T>(shape), PyBUF_WRITABLE) {}
  explicit Array(const std::vector<T>& values) : Array({static_cast<int64_t>(values.size())}) {
    std::copy(values.begin(), values.end(), mutable_data());
  }
  static bool holds(const AnyArray& a) { return a.kind() == kKind<T> && a.itemsize() == sizeof(T); }
  const T* data() const { return static_cast<const T*>(AnyArray::data()); }
  T* mutable_data() { return static_cast<T*>(view_->buf); }
};

// An argument that is written to.
template <class T>
class OutputArray : public Array<T> {
  using Array<T>::Array;
};

// ---- arguments: nothing where an object is of another type

inline Object borrowed(PyObject* object) {
  Py_INCREF(object);
  return Object(object);
}

template <class T>
struct Argument;

template <class A>
std::optional<A> array_argument(PyObject* object, int flags) {
  if (!PyObject_CheckBuffer(object)) {
    return {};
  }
  return A(borrowed(object), flags);
}

template <>
struct Argument<AnyArray> {
  static std::optional<AnyArray> get(PyObject* object) { return array_argument<AnyArray>(object, PyBUF_FORMAT); }
};
template <class T>
struct Argument<Array<T>> {
  static std::optional<Array<T>> get(PyObject* object) {
    auto a = array_argument<Array<T>>(object, PyBUF_FORMAT);
    return a && Array<T>::holds(*a) ? std::move(a) : std::nullopt;
  }
};
template <class T>
struct Argument<OutputArray<T>> {
  static std::optional<OutputArray<T>> get(PyObject* object) {
    auto a = array_argument<OutputArray<T>>(object, PyBUF_FORMAT | PyBUF_WRITABLE);
    return a && Array<T>::holds(*a) ? std::move(a) : std::nullopt;
  }
};
template <class T>
struct Argument<std::optional<T>> {
  static std::optional<std::optional<T>> get(PyObject* object) {
    if (Py_IsNone(object)) {
      return std::optional<T>();
    }
    auto found = Argument<T>::get(object);
    return found ? std::make_optional(std::move(found)) : std::nullopt;
  }
};
template <class A, class B>
struct Argument<std::variant<A, B>> {
  static std::optional<std::variant<A, B>> get(PyObject* object) {
    if (auto a = Argument<A>::get(object)) {
      return std::move(*a);
    }
    auto b = Argument<B>::get(object);
    return b ? std::optional<std::variant<A, B>>(std::move(*b)) : std::nullopt;
  }
};
template <>
struct Argument<bool> {
  static std::optional<bool> get(PyObject* object) {
    return PyBool_Check(object) ? std::optional<bool>(Py_IsTrue(object)) : std::nullopt;
  }
};
template <class T>
  requires std::is_arithmetic_v<T>
struct Argument<T> {
  static std::optional<T> get(PyObject* object) {
    if constexpr (std::is_floating_point_v<T>) {
      const double value = PyFloat_AsDouble(object);
      return checked(static_cast<T>(value), value == -1);
    } else {
      if (!PyIndex_Check(object)) {
        return {};
      }
      const long long value = PyLong_AsLongLong(Object(PyNumber_Index(object)).get());
      return checked(static_cast<T>(value), value == -1);
    }
  }
  static std::optional<T> checked(T value, bool may_be_error) {
    if (may_be_error && PyErr_Occurred()) {
      throw ErrorIsSet{};
    }
    return value;
  }
};

// ---- results

inline PyObject* to_python(const Object& object) { return borrowed(object.get()).release(); }
inline PyObject* to_python(const AnyArray& array) { return borrowed(array.object()).release(); }
template <class T>
  requires std::is_arithmetic_v<T>
PyObject* to_python(T value) {
  if constexpr (std::is_same_v<T, bool>) {
    return PyBool_FromLong(value);
  } else if constexpr (std::is_floating_point_v<T>) {
    return PyFloat_FromDouble(value);
  } else if constexpr (std::is_unsigned_v<T>) {
    return PyLong_FromUnsignedLongLong(value);
  } else {
    return PyLong_FromLongLong(value);
  }
}

template <class... T>
Object make_tuple(const T&... values) {
  Object tuple(PyTuple_New(sizeof...(T)));
  Py_ssize_t i = 0;
  (PyTuple_SetItem(tuple.get(), i++, Object(to_python(values)).release()), ...);
  return tuple;
}

// ---- calls

template <class R, class... A, size_t... I>
bool call_if_it_fits(R (*function)(A...), PyObject* const* arguments, Py_ssize_t count, PyObject*& result,
                     std::index_sequence<I...>) {
  if (count != sizeof...(A)) {
    return false;
  }
  std::tuple<std::optional<std::decay_t<A>>...> values;
  const auto read = [&](auto& value, PyObject* object) {
    using T = typename std::remove_reference_t<decltype(value)>::value_type;
    if (auto found = Argument<T>::get(object)) {
      value.emplace(std::move(*found));
    }
    return value.has_value();
  };
  if (!(read(std::get<I>(values), arguments[I]) && ...)) {
    return false;
  }
  if constexpr (std::is_void_v<R>) {
    function(*std::get<I>(values)...);
    result = borrowed(Py_None).release();
  } else {
    result = to_python(function(*std::get<I>(values)...));
  }
  return true;
}

template <class R, class... A>
bool call_if_it_fits(R (*function)(A...), PyObject* const* arguments, Py_ssize_t count, PyObject*& result) {
  return call_if_it_fits(function, arguments, count, result, std::index_sequence_for<A...>());
}

// A METH_FASTCALL function: the first of the overloads that fits.
template <auto... Overloads>
PyObject* call(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  try {
    PyObject* result = nullptr;
    if (!(call_if_it_fits(Overloads, arguments, count, result) || ...)) {
      PyErr_SetString(PyExc_TypeError, "arguments: expected others in number, kind or dtype");
    }
    return result;
  } catch (const ErrorIsSet&) {
  } catch (const ValueError& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

template <class R, class... A>
constexpr size_t arity(R (*)(A...)) {
  return sizeof...(A);
}

template <size_t N>
inline constexpr char kDigits[] = {char('0' + N / 10), char('0' + N % 10), '\0'};

// Its __doc__ is its number of arguments, by which Python tells a module that was built from other sources.
template <auto First, auto... Others>
PyMethodDef method(const char* name) {
  static_assert(((arity(First) == arity(Others)) && ...));
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call<First, Others...>)), METH_FASTCALL,
          kDigits<arity(First)>};
}

}  // namespace ordkernels::host::python
