"""Right answers pass, whatever their tests exchange with them, and wrong ones do not."""

from __future__ import annotations

import pytest

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.evaluation.judges import code, sandbox

# Kind, answer, tests.
RIGHT = [
    (
        "namedtuple result",
        "from collections import namedtuple\nT=namedtuple('T','a b')\ndef f(): return T(1,2)",
        "assert f()==(1,2) ",
    ),
    (
        "counter",
        "from collections import Counter\ndef f(x): return Counter(x)",
        "assert f('aab')=={'a':2,'b':1}",
    ),
    (
        "numpy int",
        "import numpy as np\ndef f(x): return np.int64(x)",
        "assert f(3)==3",
    ),
    (
        "numpy bool",
        "import numpy as np\ndef f(x): return np.bool_(x)",
        "assert f(True)==True",
    ),
    (
        "numpy float",
        "import numpy as np\ndef f(x): return np.float32(x)",
        "assert abs(f(1.5)-1.5)<1e-6",
    ),
    (
        "generator",
        "def f(x):\n  for i in range(x): yield i",
        "assert list(f(3))==[0,1,2] and next(f(2))==0 and sum(f(3))==3",
    ),
    (
        "iterator",
        "def f(x): return map(str,x)",
        "assert list(f([1]))==['1']",
    ),
    (
        "keys",
        "def f(x): return x.keys()",
        "assert list(f({1:2}))==[1] and f({1:2})=={1:2}.keys()",
    ),
    (
        "changed argument",
        "def f(x): x.append(1)",
        "a=[]\nf(a)\nassert a==[1]",
    ),
    (
        "changed inside",
        "def f(m): m[0][0]=5",
        "a=[[1]]\nf(a)\nassert a==[[5]]",
    ),
    (
        "exception",
        "def f(x):\n  if x<0: raise ValueError('neg')\n  return x",
        "try:\n  f(-1)\n  assert False\nexcept ValueError as e:\n  assert str(e)=='neg'",
    ),
    (
        "exception below another",
        "class E(KeyError): pass\ndef f(x): raise E('k')",
        "try:\n  f(-1)\n  assert False\nexcept KeyError: pass",
    ),
    (
        "exception of its own",
        "class E(Exception): pass\ndef f(x): raise E('k')",
        "try:\n  f(-1)\n  assert False\nexcept E: pass",
    ),
    (
        "big int",
        "def f(): return 7**20000",
        "assert f()==7**20000",
    ),
    (
        "infinity",
        "def f(): return [float('inf'),float('nan')]",
        "import math\nr=f()\nassert r[0]==math.inf and math.isnan(r[1])",
    ),
    (
        "sorted objects",
        "class V:\n  def __init__(self,a): self.a=a\n  def __lt__(self,o): return self.a<o.a",
        "assert [v.a for v in sorted([V(2),V(1)])]==[1,2]",
    ),
    (
        "key function",
        "def f(x,key): return sorted(x,key=key)",
        "assert f([1,2],key=lambda v:-v)==[2,1]",
    ),
    (
        "built-in functions",
        "def f(g,x): return g(x)",
        "assert f(len,[1])==1 and f(str,1)=='1' and f(max,[1,2])==2",
    ),
    (
        "library function",
        "def f(g,x): return g(x)",
        "import math\nassert f(math.sqrt,4)==2",
    ),
    (
        "returned function",
        "def f(n): return lambda x: x+n",
        "assert f(1)(2)==3",
    ),
    (
        "decorator",
        "def deco(g):\n  def w(*a): return g(*a)*2\n  return w",
        "@deco\ndef h(x): return x\nassert h(2)==4",
    ),
    (
        "constant",
        "PI=3",
        "assert PI==3",
    ),
    (
        "printing",
        "def f(): print('x'*100); return 1",
        "assert f()==1",
    ),
    (
        "captured printing",
        "def f(): print('hi')",
        "import io,contextlib\n"
        "b=io.StringIO()\n"
        "with contextlib.redirect_stdout(b): f()\n"
        "assert b.getvalue()=='hi\\n'",
    ),
    (
        "datetime",
        "import datetime\ndef f(): return datetime.date(2020,1,2)",
        "import datetime\nassert f()==datetime.date(2020,1,2)",
    ),
    (
        "decimal arg",
        "def f(d): return d+1",
        "from decimal import Decimal\nassert f(Decimal('1.5'))==Decimal('2.5')",
    ),
    (
        "regex match",
        "import re\ndef f(s): return re.match('a',s)",
        "assert f('a') and f('a').group()=='a' and f('b') is None",
    ),
    (
        "complex",
        "def f(): return 1+2j",
        "assert f()==1+2j",
    ),
    (
        "deque",
        "from collections import deque\ndef f(x): return deque(x)",
        "assert list(f([1]))==[1]",
    ),
    (
        "set of tuples",
        "def f(): return {(1,2),frozenset([3])}",
        "assert f()=={(1,2),frozenset([3])}",
    ),
    (
        "enum",
        "import enum\nclass C(enum.Enum):\n  A=1",
        "assert C.A.value==1 and C(1)==C.A",
    ),
    (
        "type check",
        "def f(): return 3",
        "assert type(f()) is int and isinstance(f(),int)",
    ),
    (
        "same object",
        "def f(x): return x",
        "a=[1]\nassert f(a) is a",
    ),
    (
        "texts of objects",
        "class V:\n  def __str__(self): return 'v'\n  def __repr__(self): return 'V()'",
        "assert str(V())=='v' and f'{V()}'=='v' and repr(V())=='V()'",
    ),
    (
        "globals",
        "x=0\ndef f():\n  global x\n  x+=1\n  return x",
        "assert f()==1 and f()==2",
    ),
    (
        "attributes",
        "class A: pass",
        "a=A()\na.x=1\nassert a.x==1 and hasattr(a,'x') and not hasattr(a,'y')",
    ),
    (
        "changed deque",
        "def f(d): d.append(1)",
        "from collections import deque\nd=deque()\nf(d)\nassert list(d)==[1]",
    ),
    (
        "methods of text",
        "def f(): return 'abc'",
        "assert f().upper()=='ABC' and f()[0]=='a'",
    ),
    (
        "small numbers",
        "def f(a,b): return a is b",
        "assert f(1,1)",
    ),
    (
        "threads",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def f(g,x):\n"
        "  with ThreadPoolExecutor(8) as p: return list(p.map(g,x))",
        "assert f(lambda v:v+1,range(20))==list(range(1,21))",
    ),
    (
        "context",
        "class S:\n"
        "  def __init__(self): self.v=[]\n"
        "  def push(self,x): self.v.append(x)\n"
        "  def __len__(self): return len(self.v)\n"
        "  def __iter__(self): return iter(self.v)\n"
        "  def __enter__(self): return self\n"
        "  def __exit__(self,*a): pass",
        "s=S()\n"
        "s.push(1)\n"
        "assert len(s)==1 and s.v==[1] and 1 in s\n"
        "with s as t: t.push(2)\n"
        "assert s.v==[1,2]",
    ),
    (
        "sums",
        "class V:\n"
        "  def __init__(self,a): self.a=a\n"
        "  def __add__(self,o): return V(self.a+o.a)\n"
        "  def __eq__(self,o): return self.a==o.a",
        "assert V(1)+V(2)==V(3)\nassert V(1)!=V(2)",
    ),
    (
        "temporary folder",
        "import tempfile,os\n"
        "def f():\n"
        "  with tempfile.TemporaryDirectory() as d: return os.path.isdir(d)",
        "assert f() is True",
    ),
    (
        "numpy array",
        "import numpy as np\ndef f(x): return np.array(x).sum()",
        "assert f([1,2])==3",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _confined() -> None:
    try:
        sandbox.run("pass")
    except sandbox.SandboxError as error:
        pytest.skip(str(error))


def _passed(rows: list[tuple[str, str, str]], suffix: str) -> list[str]:
    problems = [
        Problem(id=kind, question="", answer="", target=f"{tests}\n{suffix}")
        for kind, _, tests in rows
    ]
    found = code.score([answer for _, answer, _ in rows], problems)
    return [kind for (kind, _, _), passed in zip(rows, found, strict=True) if passed]


@pytest.mark.slow
def test_right_answers_pass() -> None:
    assert _passed(RIGHT, "") == [kind for kind, _, _ in RIGHT]


def test_a_test_that_fails_at_the_end_fails_them_all() -> None:
    assert _passed(RIGHT[::6], "assert False") == []
