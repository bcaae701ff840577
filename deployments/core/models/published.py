"""Examples with scores that were published beside the models, used by `embedfleet verify`."""

from deployments.core.models.spec import PublishedExample

WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
WIKIPEDIA = "Given a question, retrieve Wikipedia passages that answer the question"

# https://github.com/huggingface/sentence-transformers, README.md and docs/quickstart.rst
MINILM = PublishedExample(
    queries=(
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ),
    documents=(
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ),
    scores=((1.0, 0.6660, 0.1046), (0.6660, 1.0, 0.1411), (0.1046, 0.1411, 1.0)),
    scale=1.0,
    source="sentence-transformers, README",
)

# https://huggingface.co/intfloat/multilingual-e5-large-instruct
MULTILINGUAL_E5 = PublishedExample(
    queries=("how much protein should a female eat", "南瓜的家常做法"),
    documents=(
        (
            "As a general guideline, the CDC's average requirement of protein for "
            "women ages 19 to 70 is 46 grams per day. But, as you can see from this "
            "chart, you'll need to increase that if you're expecting or training for "
            "a marathon. Check out the chart below to see how much protein you "
            "should be eating each day."
        ),
        (
            "1.清炒南瓜丝 原料:嫩南瓜半个 调料:葱、盐、白糖、鸡精 做法: 1、南瓜用刀薄"
            "薄的削去表面一层皮,用勺子刮去瓤 2、擦成细丝(没有擦菜板就用刀慢慢切成细丝"
            ") 3、锅烧热放油,入葱花煸出香味 4、入南瓜丝快速翻炒一分钟左右,放盐、一点"
            "白糖和鸡精调味出锅 2.香葱炒南瓜 原料:南瓜1只 调料:香葱、蒜末、橄榄油、盐"
            " 做法: 1、将南瓜去皮,切成片 2、油锅8成热后,将蒜末放入爆香 3、爆香后,将南"
            "瓜片放入,翻炒 4、在翻炒的同时,可以不时地往锅里加水,但不要太多 5、放入盐,"
            "炒匀 6、南瓜差不多软和绵了之后,就可以关火 7、撒入香葱,即可出锅"
        ),
    ),
    scores=((91.92852783203125, 67.580322265625), (70.3814468383789, 92.1330795288086)),
    scale=100.0,
    source="model card of intfloat/multilingual-e5-large-instruct",
    instruction=WEB_SEARCH,
)

# https://huggingface.co/Linq-AI-Research/Linq-Embed-Mistral. Early copies of the card print 86.7153…
# instead: those are the digits of Salesforce/SFR-Embedding-Mistral's card, left over from a template.
LINQ = PublishedExample(
    queries=("최초의 원자력 발전소는 무엇인가?", "Who invented Hangul?"),
    documents=(
        (
            "현재 사용되는 핵분열 방식을 이용한 전력생산은 1948년 9월 미국 테네시주 "
            "오크리지에 설치된 X-10 흑연원자로에서 전구의 불을 밝히는 데 사용되면서 "
            "시작되었다. 그리고 1954년 6월에 구소련의 오브닌스크에 건설된 흑연감속 "
            "비등경수 압력관형 원자로를 사용한 오브닌스크 원자력 발전소가 시험적으로 "
            "전력생산을 시작하였고, 최초의 상업용 원자력 엉더이로를 사용한 영국 "
            "셀라필드 원자력 단지에 위치한 콜더 홀(Calder Hall) 원자력 발전소로, "
            "1956년 10월 17일 상업 운전을 시작하였다."
        ),
        (
            "Hangul was personally created and promulgated by the fourth king of the "
            "Joseon dynasty, Sejong the Great.[1][2] Sejong's scholarly institute, "
            "the Hall of Worthies, is often credited with the work, and at least one "
            "of its scholars was heavily involved in its creation, but it appears to "
            "have also been a personal project of Sejong."
        ),
    ),
    scores=((73.72909545898438, 30.122783660888672), (29.155078887939453, 79.25374603271484)),
    scale=100.0,
    source="model card of Linq-AI-Research/Linq-Embed-Mistral",
    instruction=WIKIPEDIA,
)
