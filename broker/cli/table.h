// Rows under aligned columns, written as they come.
//
// The first rows are held back to learn the widths of the columns; later rows keep those widths, so
// that a million rows need the memory of a few. On a terminal the header is bold, states are tinted
// and the last column is cut at the edge; in a pipe nothing is cut, an empty cell is `-`, and
// fields are parted by at least two spaces, so that each row has as many fields as the header.
//
// Threading: one thread. Lifetime: `sink` is called until Finish() has returned.

#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/cli/style.h"

namespace tocsin::cli {

struct Column {
  std::string title;
  bool right = false;  // numbers
};

struct Cell {
  Cell(std::string cell_text, Tint cell_tint = Tint::kNone)  // NOLINT: a row is a list of texts
      : text(std::move(cell_text)), tint(cell_tint) {}
  Cell(const char* cell_text) : text(cell_text) {}  // NOLINT

  std::string text;
  Tint tint = Tint::kNone;
};

struct TableLook {
  bool colored = false;
  std::size_t width = 0;  // of the terminal; 0: a pipe
};

class Table {
 public:
  // False from the sink: nobody reads any more; Row() then says so too.
  using Sink = std::function<bool(std::string_view)>;

  Table(std::vector<Column> columns, TableLook look, Sink sink);

  // As many cells as columns. Texts are cleaned here. False: nobody reads any more.
  bool Row(std::vector<Cell> cells);

  // Writes what was held back; with no row at all nothing, not even the header.
  bool Finish();

 private:
  bool WriteHeld();
  bool WriteRow(const std::vector<Cell>& cells);

  // Set at construction.
  std::vector<Column> columns_;
  TableLook look_;
  Sink sink_;

  std::vector<std::size_t> widths_;
  std::vector<std::vector<Cell>> held_;
  bool widths_known_ = false;
};

}  // namespace tocsin::cli
